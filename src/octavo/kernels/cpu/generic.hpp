// Loop bodies in plain C++. They are inlined into functions of either instruction set, so they must stay free of
// calls into the standard library: an inline function of it compiled for AVX2 could be linked into the portable path.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "loops.hpp"

#define OCTAVO_INLINE inline __attribute__((always_inline))
#define OCTAVO_LAMBDA __attribute__((always_inline))

namespace octavo::generic {

OCTAVO_INLINE void scale(const float* midpoints, std::size_t count, float factor, float* thresholds) {
    for (std::size_t k = 0; k < count; ++k) thresholds[k] = midpoints[k] * factor;
}

OCTAVO_INLINE void widen_bfloat16(const std::uint16_t* in, std::size_t n, float* out) {
    for (std::size_t i = 0; i < n; ++i) out[i] = std::bit_cast<float>(std::uint32_t{in[i]} << 16);
}

// Exact for every finite half, including subnormals; infinities and NaN stay what they are.
OCTAVO_INLINE float widened(std::uint16_t half) {
    const std::uint32_t sign = std::uint32_t{half & 0x8000u} << 16;
    const std::uint32_t body = std::uint32_t{half & 0x7FFFu} << 13;
    const float value = std::bit_cast<float>(body) * 0x1p112f;  // moves the exponent's bias from 15 to 127
    const std::uint32_t bits = body >= 0x0F800000u ? body | 0x7F800000u : std::bit_cast<std::uint32_t>(value);
    return std::bit_cast<float>(bits | sign);
}

OCTAVO_INLINE void widen_float16(const std::uint16_t* in, std::size_t n, float* out) {
    for (std::size_t i = 0; i < n; ++i) out[i] = widened(in[i]);
}

// To the nearest, ties to even; NaN becomes the quiet NaN.
OCTAVO_INLINE void narrow_bfloat16(const float* in, std::size_t n, std::uint16_t* out) {
    for (std::size_t i = 0; i < n; ++i) {
        const std::uint32_t bits = std::bit_cast<std::uint32_t>(in[i]);
        const std::uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
        out[i] = static_cast<std::uint16_t>((bits & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FC0u : rounded);
    }
}

OCTAVO_INLINE void values(const std::uint8_t* codes, std::size_t n, const float* table, float factor, float* out) {
    for (std::size_t i = 0; i < n; ++i) out[i] = table[codes[i]] * factor;
}

OCTAVO_INLINE void dot(const float* weights, std::size_t n, const float* x, std::size_t pitch, std::size_t batch,
                       float* out, std::size_t out_pitch) {
    constexpr std::size_t sums = 16;
    for (std::size_t b = 0; b < batch; ++b, x += pitch) {
        float part[sums] = {};
        for (std::size_t i = 0; i < n; i += sums)
            for (std::size_t j = 0; j < sums; ++j) part[j] += weights[i + j] * x[i + j];
        for (std::size_t left = sums / 2; left > 0; left /= 2)
            for (std::size_t j = 0; j < left; ++j) part[j] += part[j + left];
        out[b * out_pitch] += part[0];
    }
}

template <typename Code>
OCTAVO_INLINE void grid(const Code* codes, std::size_t n, const Points& points, float row, const float* columns,
                        float* out) {
    for (std::size_t i = 0; i < n; ++i) {
        const std::int32_t code = codes[i];
        const bool covered = -points.half <= code && code <= points.half;
        const float point = covered ? points.table[code + points.half] : static_cast<float>(code);
        out[i] = point * (row * columns[i]);
    }
}

// The best index of one quantizer and parity, without its sign.
template <int quantizer, int parity>
OCTAVO_INLINE void branch(float magnitude, const float* costs, std::int32_t top, float& least_cost,
                          std::int32_t& index) {
    constexpr float first = 2 * parity - quantizer;
    const auto error = [&](std::int32_t k) {
        const float gap = magnitude - static_cast<float>(2 * k - (quantizer != 0 && k > 0));
        return gap * gap + costs[k];
    };
    const std::int32_t nearest = parity + 2 * static_cast<std::int32_t>((magnitude - first) * 0.25f + 0.5f);
    const std::int32_t highest = top - ((top + parity) & 1);
    index = nearest < highest ? nearest : highest;
    least_cost = error(index);
    const std::int32_t lower = index - 2 > parity ? index - 2 : parity;
    const float lower_cost = error(lower);
    index = lower_cost < least_cost ? lower : index;
    least_cost = lower_cost < least_cost ? lower_cost : least_cost;
    if (parity == 0) {
        const float zero_cost = error(0);
        index = zero_cost < least_cost ? 0 : index;
        least_cost = zero_cost < least_cost ? zero_cost : least_cost;
    }
}

OCTAVO_INLINE void trellis_branches(const float* scaled, const std::uint8_t* context, std::size_t n,
                                    const IndexCosts& costs, float* cost, std::int16_t* indices) {
    const std::int32_t top = static_cast<std::int32_t>(costs.sizes) - 1;
    for (std::size_t i = 0; i < n; ++i, cost += 4, indices += 4) {
        const float size = scaled[i] < 0 ? -scaled[i] : scaled[i];
        // Also where it is NaN, so that no index runs away.
        const float magnitude = size < trellis_reach ? size : trellis_reach;
        const float* even = costs.table + context[i] * costs.sizes;
        const float* odd = even + costs.contexts * costs.sizes;
        std::int32_t found[4];
        branch<0, 0>(magnitude, even, top, cost[0], found[0]);
        branch<0, 1>(magnitude, even, top, cost[1], found[1]);
        branch<1, 0>(magnitude, odd, top, cost[2], found[2]);
        branch<1, 1>(magnitude, odd, top, cost[3], found[3]);
        const std::int32_t sign = scaled[i] < 0 ? -1 : 0;
        for (int j = 0; j < 4; ++j) indices[j] = static_cast<std::int16_t>((found[j] ^ sign) - sign);
    }
}

OCTAVO_INLINE void trellis_walk(const Trellis& trellis, const float* branches, std::size_t rows, float* cost,
                                std::uint64_t* decisions) {
    const std::uint32_t states = trellis.states, half = states / 2;
    const std::uint32_t moved = trellis.h0 & (half - 1);
    float next[max_states];
    for (std::size_t row = 0; row < rows; ++row, branches += 4) {
        std::uint64_t decision = 0;
        for (std::uint32_t state = 0; state < states; ++state) {
            const std::uint32_t quantizer = state >= half, source = state ^ (quantizer ? moved : 0);
            const float even = cost[source] + branches[2 * quantizer];
            const float odd = cost[source ^ trellis.h1] + branches[2 * quantizer + 1];
            decision |= std::uint64_t{odd < even} << state;
            next[(state & 1) * half + (state >> 1)] = odd < even ? odd : even;
        }
        for (std::uint32_t state = 0; state < states; ++state) cost[state] = next[state];
        decisions[row] = decision;
    }
}

template <typename Index>
OCTAVO_INLINE void trellis_decode(const Trellis& trellis, const Index* indices, std::size_t n, std::int16_t* states,
                                  std::int16_t* values, std::uint8_t* quantizers) {
    for (std::size_t i = 0; i < n; ++i) {
        const std::int32_t state = states[i], index = indices[i], second = state & 1;
        const std::int32_t sign = (index > 0) - (index < 0);
        if (values != nullptr) values[i] = static_cast<std::int16_t>(2 * index - second * sign);
        if (quantizers != nullptr) quantizers[i] = static_cast<std::uint8_t>(second);
        states[i] = static_cast<std::int16_t>((state >> 1) ^ (-second & static_cast<std::int32_t>(trellis.h0)) ^
                                              (-(index & 1) & static_cast<std::int32_t>(trellis.h1)));
    }
}

OCTAVO_INLINE void shift_walk(const ShiftTrellis& trellis, const float* weights, std::size_t steps, float* total,
                              std::uint8_t* decisions) {
    const std::size_t nodes = trellis.nodes(), branches = std::size_t{1} << trellis.bits, plane = nodes / 8;
    float* next = total + nodes;
    for (std::size_t step = 0; step < steps; ++step, decisions += trellis.decision_bytes()) {
        for (std::size_t node = 0; node < nodes; node += lane) {
            float least[lane];
            std::uint32_t best[lane] = {};
            for (std::size_t j = 0; j < lane; ++j) least[j] = __builtin_inff();
            for (std::size_t branch = 0; branch < branches; ++branch)
                for (std::size_t j = 0; j < lane; ++j) {
                    const std::size_t state = branch * nodes + node + j;
                    const float gap = weights[step] - trellis.table[state];
                    const float cost = total[state >> trellis.bits] + gap * gap;
                    best[j] = cost < least[j] ? static_cast<std::uint32_t>(branch) : best[j];
                    least[j] = cost < least[j] ? cost : least[j];
                }
            for (std::size_t j = 0; j < lane; ++j) next[node + j] = least[j];
            for (std::uint32_t bit = 0; bit < trellis.bits; ++bit) {
                std::uint32_t found = 0;
                for (std::size_t j = 0; j < lane; ++j) found |= (best[j] >> bit & 1u) << j;
                decisions[bit * plane + node / 8] = static_cast<std::uint8_t>(found);
            }
        }
        for (std::size_t node = 0; node < nodes; ++node) total[node] = next[node];
    }
}

OCTAVO_INLINE void shift_values(const ShiftTrellis& trellis, const std::uint8_t* streams, std::size_t pitch,
                                std::size_t rows, float* values) {
    const std::uint32_t mask = (1u << trellis.window) - 1;
    for (std::size_t row = 0; row < rows; ++row) {
        const std::size_t at = row * trellis.bits;
        for (std::size_t j = 0; j < lane; ++j) {
            const std::uint8_t* from = streams + j * pitch + at / 8;
            const std::uint32_t word = from[0] | std::uint32_t{from[1]} << 8 | std::uint32_t{from[2]} << 16;
            values[row * lane + j] = trellis.table[word >> (at % 8) & mask];
        }
    }
}

}  // namespace octavo::generic
