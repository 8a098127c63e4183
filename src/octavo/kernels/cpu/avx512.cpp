// The loop that gains most from AVX-512 (servers since 2017); all others are those for AVX2.
#include "loops.hpp"

#if OCTAVO_X86

#include <immintrin.h>

#include "generic.hpp"

#define OCTAVO_AVX512 __attribute__((target("avx512f")))

namespace octavo {
namespace {

constexpr std::size_t wide = 16;
static_assert(wide == shift_spare);

template <int bits>
OCTAVO_AVX512 OCTAVO_INLINE void shift_step(const ShiftTrellis& trellis, float weight, const float* total, float* next,
                                            std::uint8_t* decisions) {
    const std::size_t nodes = trellis.nodes(), plane = nodes / 8;
    const __m512 target = _mm512_set1_ps(weight);
    // Sixteen neighboring states are preceded by sixteen / 2^bits, in turn.
    const __m512i preceding = _mm512_srli_epi32(
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), bits < 5 ? bits : 4);
    for (std::size_t node = 0; node < nodes; node += wide) {
        __m512 least = _mm512_set1_ps(__builtin_inff());
        __m512i best = _mm512_setzero_si512();
        for (std::size_t branch = 0; branch < std::size_t{1} << bits; ++branch) {
            const std::size_t state = branch * nodes + node;
            const __m512 gap = _mm512_sub_ps(target, _mm512_loadu_ps(trellis.table + state));
            const __m512 before = bits < 4 ? _mm512_permutexvar_ps(preceding, _mm512_loadu_ps(total + (state >> bits)))
                                           : _mm512_set1_ps(total[state >> bits]);
            const __m512 cost = _mm512_add_ps(before, _mm512_mul_ps(gap, gap));
            const __mmask16 better = _mm512_cmp_ps_mask(cost, least, _CMP_LT_OQ);
            best = _mm512_mask_mov_epi32(best, better, _mm512_set1_epi32(static_cast<int>(branch)));
            least = _mm512_min_ps(cost, least);
        }
        _mm512_storeu_ps(next + node, least);
        for (int bit = 0; bit < bits; ++bit) {
            const __mmask16 found = _mm512_test_epi32_mask(best, _mm512_set1_epi32(1 << bit));
            std::uint8_t* to = decisions + static_cast<std::size_t>(bit) * plane + node / 8;
            to[0] = static_cast<std::uint8_t>(found);
            to[1] = static_cast<std::uint8_t>(found >> 8);
        }
    }
}

template <int bits>
OCTAVO_AVX512 void shift_steps(const ShiftTrellis& trellis, const float* weights, std::size_t steps, float* total,
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
        for (std::size_t node = 0; node < nodes; node += wide)
            _mm512_storeu_ps(total + node, _mm512_loadu_ps(from + node));
}

void shift_walk(const ShiftTrellis& trellis, const float* weights, std::size_t steps, float* total,
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

}  // namespace

Loops with_avx512(Loops loops) {
    loops.name = "AVX-512";
    loops.shift_walk = shift_walk;
    return loops;
}

}  // namespace octavo

#endif
