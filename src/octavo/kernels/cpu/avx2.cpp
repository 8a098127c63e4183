// The loops for x86-64 processors with AVX2 (2013 and later). Only these functions are compiled for it.
#include "loops.hpp"

#if OCTAVO_X86

#include <immintrin.h>

#include "avx2_trellis.hpp"
#include "generic.hpp"
#include "shift_avx2.hpp"

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

OCTAVO_AVX2 void dot(const float* weights, std::size_t n, const float* x, std::size_t pitch, std::size_t batch, float* out,
                     std::size_t out_pitch) {
    generic::dot(weights, n, x, pitch, batch, out, out_pitch);
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

}  // namespace

const Loops avx2_loops = {
    "AVX2",          scale,     codes,      values,       dot,            widen_bfloat16,
    widen_float16,   narrow_bfloat16, grid_int8, grid_int16, trellis_branches, trellis_walk,   trellis_int8,  trellis_int16,
    shift_avx2::shift_walk, shift_avx2::shift_values,
};

}  // namespace octavo

#endif
