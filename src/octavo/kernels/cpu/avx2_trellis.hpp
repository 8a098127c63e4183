// The loops of the trellis for processors with AVX2; a part of avx2.cpp.
#pragma once

#include <immintrin.h>

#include "generic.hpp"
#include "loops.hpp"

#define OCTAVO_AVX2 __attribute__((target("avx2,f16c")))

namespace octavo {
namespace {

// The best index, without its sign, and the cost of one quantizer and parity for eight weights.
struct Eight {
    __m256 cost;
    __m256i index;
};

template <int quantizer, int parity>
OCTAVO_AVX2 OCTAVO_INLINE Eight eight_branches(__m256 magnitude, const float* table, __m256i base, std::int32_t top) {
    const auto error = [&](__m256i k) OCTAVO_AVX2 {
        __m256i value = _mm256_add_epi32(k, k);
        if (quantizer != 0) value = _mm256_add_epi32(value, _mm256_cmpgt_epi32(k, _mm256_setzero_si256()));
        const __m256 gap = _mm256_sub_ps(magnitude, _mm256_cvtepi32_ps(value));
        return _mm256_add_ps(_mm256_mul_ps(gap, gap), _mm256_i32gather_ps(table, _mm256_add_epi32(base, k), 4));
    };
    const __m256 quarters = _mm256_mul_ps(_mm256_sub_ps(magnitude, _mm256_set1_ps(2 * parity - quantizer)),
                                          _mm256_set1_ps(0.25f));
    const __m256i steps = _mm256_cvttps_epi32(_mm256_add_ps(quarters, _mm256_set1_ps(0.5f)));
    const __m256i nearest = _mm256_add_epi32(_mm256_add_epi32(steps, steps), _mm256_set1_epi32(parity));
    const auto tried = [](Eight best, __m256 cost, __m256i index) OCTAVO_AVX2 {
        const __m256 better = _mm256_cmp_ps(cost, best.cost, _CMP_LT_OQ);
        return Eight{_mm256_min_ps(cost, best.cost),
                     _mm256_blendv_epi8(best.index, index, _mm256_castps_si256(better))};
    };
    const __m256i index = _mm256_min_epi32(nearest, _mm256_set1_epi32(top - ((top + parity) & 1)));
    const __m256i lower = _mm256_max_epi32(_mm256_sub_epi32(index, _mm256_set1_epi32(2)), _mm256_set1_epi32(parity));
    const Eight best = tried({error(index), index}, error(lower), lower);
    const __m256i zero = _mm256_setzero_si256();
    return parity == 0 ? tried(best, error(zero), zero) : best;
}

OCTAVO_AVX2 void trellis_branches(const float* scaled, const std::uint8_t* context, std::size_t n,
                                  const IndexCosts& costs, float* cost, std::int16_t* indices) {
    const std::int32_t sizes = static_cast<std::int32_t>(costs.sizes), top = sizes - 1;
    std::size_t i = 0;
    for (; i + lane <= n; i += lane) {
        const __m256 weights = _mm256_loadu_ps(scaled + i);
        // Where a weight is NaN, the second operand is the least.
        const __m256 magnitude =
            _mm256_min_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), weights), _mm256_set1_ps(trellis_reach));
        const __m256i contexts =
            _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(context + i)));
        const __m256i base = _mm256_mullo_epi32(contexts, _mm256_set1_epi32(sizes));
        const float* const tables[2] = {costs.table, costs.table + costs.contexts * costs.sizes};
        const Eight found[4] = {eight_branches<0, 0>(magnitude, tables[0], base, top),
                                eight_branches<0, 1>(magnitude, tables[0], base, top),
                                eight_branches<1, 0>(magnitude, tables[1], base, top),
                                eight_branches<1, 1>(magnitude, tables[1], base, top)};
        const __m256 low[2] = {_mm256_unpacklo_ps(found[0].cost, found[1].cost),
                               _mm256_unpacklo_ps(found[2].cost, found[3].cost)};
        const __m256 high[2] = {_mm256_unpackhi_ps(found[0].cost, found[1].cost),
                                _mm256_unpackhi_ps(found[2].cost, found[3].cost)};
        // Weights 0 and 4, 1 and 5, ...
        const __m256 pairs[4] = {_mm256_shuffle_ps(low[0], low[1], 0x44), _mm256_shuffle_ps(low[0], low[1], 0xEE),
                                 _mm256_shuffle_ps(high[0], high[1], 0x44), _mm256_shuffle_ps(high[0], high[1], 0xEE)};
        for (std::size_t j = 0; j < 4; ++j) {
            _mm_storeu_ps(cost + 4 * (i + j), _mm256_castps256_ps128(pairs[j]));
            _mm_storeu_ps(cost + 4 * (i + j + 4), _mm256_extractf128_ps(pairs[j], 1));
        }
        const __m256i sign = _mm256_castps_si256(_mm256_cmp_ps(weights, _mm256_setzero_ps(), _CMP_LT_OQ));
        const auto both = [&](int q) OCTAVO_AVX2 {  // the indices of both parities in one number
            const __m256i even = _mm256_sub_epi32(_mm256_xor_si256(found[2 * q].index, sign), sign);
            const __m256i odd = _mm256_sub_epi32(_mm256_xor_si256(found[2 * q + 1].index, sign), sign);
            return _mm256_blend_epi16(even, _mm256_slli_epi32(odd, 16), 0xAA);
        };
        const __m256i one = both(0), two = both(1);
        const __m256i first = _mm256_unpacklo_epi32(one, two), last = _mm256_unpackhi_epi32(one, two);
        __m128i* const out = reinterpret_cast<__m128i*>(indices + 4 * i);
        _mm_storeu_si128(out, _mm256_castsi256_si128(first));
        _mm_storeu_si128(out + 1, _mm256_castsi256_si128(last));
        _mm_storeu_si128(out + 2, _mm256_extracti128_si256(first, 1));
        _mm_storeu_si128(out + 3, _mm256_extracti128_si256(last, 1));
    }
    generic::trellis_branches(scaled + i, context + i, n - i, costs, cost + 4 * i, indices + 4 * i);
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
}  // namespace octavo
