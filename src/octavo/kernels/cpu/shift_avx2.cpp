#include "shift_avx2.hpp"

#if OCTAVO_X86

#include <immintrin.h>

#include "generic.hpp"

#define OCTAVO_AVX2 __attribute__((target("avx2")))

namespace octavo::shift_avx2 {
namespace {

// The costs of the states that precede eight neighboring states, eight / 2^bits of them in turn.
template <int bits>
OCTAVO_AVX2 OCTAVO_INLINE __m256 before(const float* total, std::size_t state) {
    if constexpr (bits == 1)
        return _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(total + state / 2)),
                                        _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
    else if constexpr (bits == 2)
        return _mm256_set_m128(_mm_broadcast_ss(total + state / 4 + 1), _mm_broadcast_ss(total + state / 4));
    else
        return _mm256_broadcast_ss(total + (state >> bits));
}

template <int bits>
OCTAVO_AVX2 OCTAVO_INLINE void shift_step(const ShiftTrellis& trellis, float weight, const float* total, float* next,
                                          std::uint8_t* decisions) {
    const std::size_t nodes = trellis.nodes(), plane = nodes / 8;
    const __m256 target = _mm256_set1_ps(weight);
    for (std::size_t node = 0; node < nodes; node += lane) {
        __m256 least = _mm256_set1_ps(__builtin_inff());
        __m256i best = _mm256_setzero_si256();
        for (std::size_t branch = 0; branch < std::size_t{1} << bits; ++branch) {
            const std::size_t state = branch * nodes + node;
            const __m256 gap = _mm256_sub_ps(target, _mm256_loadu_ps(trellis.table + state));
            const __m256 cost = _mm256_add_ps(before<bits>(total, state), _mm256_mul_ps(gap, gap));
            const __m256i better = _mm256_castps_si256(_mm256_cmp_ps(cost, least, _CMP_LT_OQ));
            // Branches ascend, so that the last improvement is the largest number.
            best = _mm256_max_epi32(best, _mm256_and_si256(better, _mm256_set1_epi32(static_cast<int>(branch))));
            least = _mm256_min_ps(cost, least);
        }
        _mm256_storeu_ps(next + node, least);
        for (int bit = 0; bit < bits; ++bit) {
            const __m256 top = _mm256_castsi256_ps(_mm256_sll_epi32(best, _mm_cvtsi32_si128(31 - bit)));
            decisions[static_cast<std::size_t>(bit) * plane + node / 8] =
                static_cast<std::uint8_t>(_mm256_movemask_ps(top));
        }
    }
}

template <int bits>
OCTAVO_AVX2 void shift_steps(const ShiftTrellis& trellis, const float* weights, std::size_t steps, float* total,
                             std::uint8_t* decisions) {
    const std::size_t nodes = trellis.nodes();
    float *from = total, *to = total + nodes;
    for (std::size_t step = 0; step < steps; ++step, decisions += trellis.decision_bytes()) {
        shift_step<bits>(trellis, weights[step], from, to, decisions);
        float* const last = from;
        from = to;
        to = last;
    }
    if (from != total)
        for (std::size_t node = 0; node < nodes; node += lane)
            _mm256_storeu_ps(total + node, _mm256_loadu_ps(from + node));
}

}  // namespace

OCTAVO_AVX2 void shift_walk(const ShiftTrellis& trellis, const float* weights, std::size_t steps, float* total,
                            std::uint8_t* decisions) {
    switch (trellis.bits) {
        case 1: return shift_steps<1>(trellis, weights, steps, total, decisions);
        case 2: return shift_steps<2>(trellis, weights, steps, total, decisions);
        case 3: return shift_steps<3>(trellis, weights, steps, total, decisions);
        case 4: return shift_steps<4>(trellis, weights, steps, total, decisions);
        case 5: return shift_steps<5>(trellis, weights, steps, total, decisions);
        case 6: return shift_steps<6>(trellis, weights, steps, total, decisions);
        case 7: return shift_steps<7>(trellis, weights, steps, total, decisions);
        default: return shift_steps<8>(trellis, weights, steps, total, decisions);
    }
}

OCTAVO_AVX2 void shift_values(const ShiftTrellis& trellis, const std::uint8_t* streams, std::size_t pitch,
                              std::size_t rows, float* values) {
    const __m256i mask = _mm256_set1_epi32(static_cast<int>((1u << trellis.window) - 1));
    const __m256i lanes = _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
                                             _mm256_set1_epi32(static_cast<int>(pitch)));
    for (std::size_t row = 0; row < rows; ++row) {
        const std::size_t at = row * trellis.bits;
        const __m256i word = _mm256_i32gather_epi32(reinterpret_cast<const int*>(streams + at / 8), lanes, 1);
        const __m256i shifted = _mm256_srl_epi32(word, _mm_cvtsi32_si128(static_cast<int>(at % 8)));
        _mm256_storeu_ps(values + row * lane,
                         _mm256_i32gather_ps(trellis.table, _mm256_and_si256(shifted, mask), 4));
    }
}

}  // namespace octavo::shift_avx2

#endif
