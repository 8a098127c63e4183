// The loops for x86-64 processors with AVX2 (2013 and later). Only these functions are compiled for it.
#include "loops.hpp"

#if OCTAVO_X86

#include <immintrin.h>

#include "generic.hpp"
#include "shift_avx2.hpp"

#define OCTAVO_AVX2 __attribute__((target("avx2,f16c")))

namespace octavo {
namespace {

OCTAVO_AVX2 void scale(const float* midpoints, std::size_t count, float factor, float* thresholds) {
    generic::scale(midpoints, count, factor, thresholds);
}

OCTAVO_AVX2 OCTAVO_INLINE __m256i counted(__m256i found, __m256 x, __m256 threshold) {
    return _mm256_sub_epi32(found, _mm256_castps_si256(_mm256_cmp_ps(x, threshold, _CMP_GT_OQ)));
}

// Coarse cells of `stride` thresholds are bisected with gathers.
OCTAVO_AVX2 OCTAVO_INLINE __m256i bisected(__m256i found, __m256 x, const float* thresholds, std::size_t stride) {
    __m256i code = _mm256_mullo_epi32(found, _mm256_set1_epi32(static_cast<int>(stride)));
    for (std::size_t step = stride / 2; step > 0; step /= 2) {
        const __m256 probe = _mm256_i32gather_ps(thresholds + (step - 1), code, 4);
        const __m256i above = _mm256_castps_si256(_mm256_cmp_ps(x, probe, _CMP_GT_OQ));
        code = _mm256_add_epi32(code, _mm256_and_si256(above, _mm256_set1_epi32(static_cast<int>(step))));
    }
    return code;
}

OCTAVO_AVX2 OCTAVO_INLINE void store_bytes(__m256i code, std::uint8_t* out) {
    const __m128i pairs = _mm_packus_epi32(_mm256_castsi256_si128(code), _mm256_extracti128_si256(code, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out), _mm_packus_epi16(pairs, pairs));
}

OCTAVO_AVX2 void codes(const float* x, std::size_t n, const float* thresholds, std::size_t count, int depth,
                       std::uint8_t* out) {
    const std::size_t cells = std::size_t{1} << depth;
    const std::size_t stride = cells > coarse_cells ? cells / coarse_cells : 1;
    const std::size_t compared = stride > 1 ? coarse_cells - 1 : count;
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    std::size_t i = 0;
    for (; i + 4 * lane <= n; i += 4 * lane) {
        const __m256 x0 = _mm256_loadu_ps(x + i), x1 = _mm256_loadu_ps(x + i + 8);
        const __m256 x2 = _mm256_loadu_ps(x + i + 16), x3 = _mm256_loadu_ps(x + i + 24);
        __m256i c0 = _mm256_setzero_si256(), c1 = c0, c2 = c0, c3 = c0;
        for (std::size_t k = 0; k < compared; ++k) {
            const __m256 threshold = _mm256_broadcast_ss(thresholds + (k + 1) * stride - 1);
            c0 = counted(c0, x0, threshold);
            c1 = counted(c1, x1, threshold);
            c2 = counted(c2, x2, threshold);
            c3 = counted(c3, x3, threshold);
        }
        if (stride > 1) {
            c0 = bisected(c0, x0, thresholds, stride);
            c1 = bisected(c1, x1, thresholds, stride);
            c2 = bisected(c2, x2, thresholds, stride);
            c3 = bisected(c3, x3, thresholds, stride);
        }
        // Packing works within halves of 16 bytes; the permutation puts the groups of four back in order.
        const __m256i bytes = _mm256_packus_epi16(_mm256_packus_epi32(c0, c1), _mm256_packus_epi32(c2, c3));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), _mm256_permutevar8x32_epi32(bytes, order));
    }
    for (; i < n; i += lane) {
        const __m256 value = _mm256_loadu_ps(x + i);
        __m256i code = _mm256_setzero_si256();
        for (std::size_t k = 0; k < compared; ++k)
            code = counted(code, value, _mm256_broadcast_ss(thresholds + (k + 1) * stride - 1));
        store_bytes(stride > 1 ? bisected(code, value, thresholds, stride) : code, out + i);
    }
}

OCTAVO_AVX2 void values(const std::uint8_t* codes, std::size_t n, const float* table, std::size_t levels,
                        float factor, float* out) {
    std::size_t i = 0;
    if (levels <= 16) {
        // The product is the same before and after the look-up, and the scaled table fits two registers.
        const __m256 scales = _mm256_set1_ps(factor);
        const __m256 low = _mm256_mul_ps(_mm256_loadu_ps(table), scales);
        const __m256 high = _mm256_mul_ps(_mm256_loadu_ps(table + 8), scales);
        for (; i + lane <= n; i += lane) {
            const __m256i code =
                _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + i)));
            // Bit 3 of the code, moved to the sign, picks the upper half of the table.
            const __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(code, 28));
            _mm256_storeu_ps(out + i, _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, code),
                                                       _mm256_permutevar8x32_ps(high, code), upper));
        }
    }
    generic::values(codes + i, n - i, table, factor, out + i);
}

OCTAVO_AVX2 void widen_bfloat16(const std::uint16_t* in, std::size_t n, float* out) {
    generic::widen_bfloat16(in, n, out);
}

OCTAVO_AVX2 void widen_float16(const std::uint16_t* in, std::size_t n, float* out) {
    std::size_t i = 0;
    for (; i + lane <= n; i += lane)
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i))));
    generic::widen_float16(in + i, n - i, out + i);
}

OCTAVO_AVX2 void narrow_bfloat16(const float* in, std::size_t n, std::uint16_t* out) {
    generic::narrow_bfloat16(in, n, out);
}

OCTAVO_AVX2 OCTAVO_INLINE __m256i widened(const std::int8_t* codes) {
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes)));
}

OCTAVO_AVX2 OCTAVO_INLINE __m256i widened(const std::int16_t* codes) {
    return _mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
}

template <typename Code>
OCTAVO_AVX2 OCTAVO_INLINE void grid(const Code* codes, std::size_t n, const Points& points, float row,
                                    const float* columns, float* out) {
    std::size_t i = 0;
    if (2 * static_cast<std::size_t>(points.half) + 1 <= few_points) {
        const __m256 low = _mm256_loadu_ps(points.table), high = _mm256_loadu_ps(points.table + lane);
        const __m256 rows = _mm256_set1_ps(row);
        const __m256i half = _mm256_set1_epi32(points.half), last = _mm256_add_epi32(half, half);
        for (; i + lane <= n; i += lane) {
            const __m256i code = widened(codes + i), index = _mm256_add_epi32(code, half);
            // Bit 3 of the index, moved to the sign, picks the upper half of the table.
            const __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));
            const __m256 point = _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, index),
                                                  _mm256_permutevar8x32_ps(high, index), upper);
            // Unsigned, an index below 0 is a large one.
            const __m256i covered = _mm256_cmpeq_epi32(_mm256_min_epu32(index, last), index);
            const __m256 value = _mm256_blendv_ps(_mm256_cvtepi32_ps(code), point, _mm256_castsi256_ps(covered));
            _mm256_storeu_ps(out + i, _mm256_mul_ps(value, _mm256_mul_ps(rows, _mm256_loadu_ps(columns + i))));
        }
    }
    generic::grid(codes + i, n - i, points, row, columns + i, out + i);
}

OCTAVO_AVX2 void grid_int8(const std::int8_t* codes, std::size_t n, const Points& points, float row,
                           const float* columns, float* out) {
    grid(codes, n, points, row, columns, out);
}

OCTAVO_AVX2 void grid_int16(const std::int16_t* codes, std::size_t n, const Points& points, float row,
                            const float* columns, float* out) {
    grid(codes, n, points, row, columns, out);
}

// Costs of 8 * registers states, or of fewer where there is one register. The states before those of register d lie in
// one register too, because the trellis moves them by exclusive or.
template <int registers>
OCTAVO_AVX2 OCTAVO_INLINE void walk(const Trellis& trellis, const float* branches, std::size_t rows, float* cost,
                                    std::uint64_t* decisions) {
    const std::uint32_t states = trellis.states, half = states / 2, moved = trellis.h0 & (half - 1);
    alignas(32) std::int32_t even_lane[2][lane], odd_lane[2][lane], spread[lane], order[lane];
    for (std::uint32_t i = 0; i < lane; ++i) {
        for (std::uint32_t q = 0; q < 2; ++q) {
            // A single register holds both quantizers, and perhaps lanes that are no state.
            const std::uint32_t second = registers > 1 ? q : (i >= half && i < states);
            const std::uint32_t mask = second ? moved : 0;
            even_lane[q][i] = static_cast<std::int32_t>(i < states ? i ^ (mask & 7) : i);
            odd_lane[q][i] = static_cast<std::int32_t>(i < states ? i ^ ((mask ^ trellis.h1) & 7) : i);
        }
        spread[i] = i >= half ? 2 : 0;
        order[i] = static_cast<std::int32_t>(i < states ? 2 * (i & (half - 1)) + (i >= half) : i);
    }
    const __m256i even_lanes[2] = {_mm256_load_si256(reinterpret_cast<const __m256i*>(even_lane[0])),
                                   _mm256_load_si256(reinterpret_cast<const __m256i*>(even_lane[1]))};
    const __m256i odd_lanes[2] = {_mm256_load_si256(reinterpret_cast<const __m256i*>(odd_lane[0])),
                                  _mm256_load_si256(reinterpret_cast<const __m256i*>(odd_lane[1]))};
    const __m256i spreads = _mm256_load_si256(reinterpret_cast<const __m256i*>(spread));
    const __m256i orders = _mm256_load_si256(reinterpret_cast<const __m256i*>(order));
    if constexpr (registers == 1) {
        __m256 total = _mm256_load_ps(cost);
        const __m256i next = _mm256_add_epi32(spreads, _mm256_set1_epi32(1));
        for (std::size_t row = 0; row < rows; ++row, branches += 4) {
            const __m256 step = _mm256_broadcast_ps(reinterpret_cast<const __m128*>(branches));
            const __m256 even =
                _mm256_add_ps(_mm256_permutevar8x32_ps(total, even_lanes[0]), _mm256_permutevar_ps(step, spreads));
            const __m256 odd =
                _mm256_add_ps(_mm256_permutevar8x32_ps(total, odd_lanes[0]), _mm256_permutevar_ps(step, next));
            const int found = _mm256_movemask_ps(_mm256_cmp_ps(odd, even, _CMP_LT_OQ));
            decisions[row] = static_cast<std::uint32_t>(found);
            total = _mm256_permutevar8x32_ps(_mm256_min_ps(odd, even), orders);
        }
        _mm256_store_ps(cost, total);
    } else {
        for (std::size_t row = 0; row < rows; ++row, branches += 4) {
            std::uint64_t decision = 0;
            __m256 least[registers];
            for (int d = 0; d < registers; ++d) {
                const int q = d >= registers / 2;
                const std::uint32_t mask = q ? moved : 0;
                const float* from = cost + 8 * (static_cast<std::uint32_t>(d) ^ (mask >> 3));
                const float* odd_from = cost + 8 * (static_cast<std::uint32_t>(d) ^ ((mask ^ trellis.h1) >> 3));
                const __m256 even = _mm256_add_ps(_mm256_permutevar8x32_ps(_mm256_load_ps(from), even_lanes[q]),
                                                  _mm256_broadcast_ss(branches + 2 * q));
                const __m256 odd = _mm256_add_ps(_mm256_permutevar8x32_ps(_mm256_load_ps(odd_from), odd_lanes[q]),
                                                 _mm256_broadcast_ss(branches + 2 * q + 1));
                const int found = _mm256_movemask_ps(_mm256_cmp_ps(odd, even, _CMP_LT_OQ));
                decision |= std::uint64_t{static_cast<std::uint32_t>(found)} << (8 * d);
                least[d] = _mm256_min_ps(odd, even);
            }
            for (int d = 0; d < registers / 2; ++d) {
                const __m256 low = least[2 * d], high = least[2 * d + 1];
                const __m256d first = _mm256_castps_pd(_mm256_shuffle_ps(low, high, 0x88));
                const __m256d second = _mm256_castps_pd(_mm256_shuffle_ps(low, high, 0xDD));
                _mm256_store_ps(cost + 8 * d, _mm256_castpd_ps(_mm256_permute4x64_pd(first, 0xD8)));
                _mm256_store_ps(cost + 8 * d + 4 * registers, _mm256_castpd_ps(_mm256_permute4x64_pd(second, 0xD8)));
            }
            decisions[row] = decision;
        }
    }
}

OCTAVO_AVX2 void trellis_walk(const Trellis& trellis, const float* branches, std::size_t rows, float* cost,
                              std::uint64_t* decisions) {
    switch (trellis.states) {
        case 16: return walk<2>(trellis, branches, rows, cost, decisions);
        case 32: return walk<4>(trellis, branches, rows, cost, decisions);
        case 64: return walk<8>(trellis, branches, rows, cost, decisions);
        default: return walk<1>(trellis, branches, rows, cost, decisions);
    }
}

OCTAVO_AVX2 OCTAVO_INLINE __m256i sixteen(const std::int8_t* indices) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(indices)));
}

OCTAVO_AVX2 OCTAVO_INLINE __m256i sixteen(const std::int16_t* indices) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(indices));
}

template <typename Index>
OCTAVO_AVX2 OCTAVO_INLINE void trellis_decode(const Trellis& trellis, const Index* indices, std::size_t n,
                                              std::int16_t* states, std::int16_t* values, std::uint8_t* quantizers) {
    const __m256i h0 = _mm256_set1_epi16(static_cast<std::int16_t>(trellis.h0));
    const __m256i h1 = _mm256_set1_epi16(static_cast<std::int16_t>(trellis.h1));
    const __m256i one = _mm256_set1_epi16(1), zero = _mm256_setzero_si256();
    const auto step = [&](std::size_t i) OCTAVO_AVX2 {
        const __m256i index = sixteen(indices + i), state = sixteen(states + i);
        const __m256i second = _mm256_and_si256(state, one), all = _mm256_sub_epi16(zero, second);
        if (values != nullptr) {
            // The sign of the index on -1 or 0 is what the second quantizer takes away.
            const __m256i value = _mm256_add_epi16(_mm256_add_epi16(index, index), _mm256_sign_epi16(all, index));
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(values + i), value);
        }
        const __m256i odd = _mm256_sub_epi16(zero, _mm256_and_si256(index, one));
        const __m256i move = _mm256_xor_si256(_mm256_and_si256(all, h0), _mm256_and_si256(odd, h1));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(states + i),
                            _mm256_xor_si256(_mm256_srli_epi16(state, 1), move));
        return second;
    };
    std::size_t i = 0;
    for (; i + 2 * lane <= n; i += 2 * lane) {
        const __m256i second = step(i);
        if (quantizers != nullptr) {
            const __m128i bytes =
                _mm_packus_epi16(_mm256_castsi256_si128(second), _mm256_extracti128_si256(second, 1));
            _mm_storeu_si128(reinterpret_cast<__m128i*>(quantizers + i), bytes);
        }
    }
    generic::trellis_decode(trellis, indices + i, n - i, states + i, values == nullptr ? nullptr : values + i,
                            quantizers == nullptr ? nullptr : quantizers + i);
}

OCTAVO_AVX2 void trellis_int8(const Trellis& trellis, const std::int8_t* indices, std::size_t n, std::int16_t* states,
                              std::int16_t* values, std::uint8_t* quantizers) {
    trellis_decode(trellis, indices, n, states, values, quantizers);
}

OCTAVO_AVX2 void trellis_int16(const Trellis& trellis, const std::int16_t* indices, std::size_t n, std::int16_t* states,
                               std::int16_t* values, std::uint8_t* quantizers) {
    trellis_decode(trellis, indices, n, states, values, quantizers);
}

}  // namespace

const Loops avx2_loops = {
    "AVX2",          scale,     codes,      values,       widen_bfloat16, widen_float16,
    narrow_bfloat16, grid_int8, grid_int16, trellis_walk, trellis_int8,   trellis_int16,
    shift_avx2::shift_walk, shift_avx2::shift_values,
};

}  // namespace octavo

#endif
