// Loop bodies in plain C++. They are inlined into functions of either instruction set, so they must stay free of
// calls into the standard library: an inline function of it compiled for AVX2 could be linked into the portable path.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "loops.hpp"

#define OCTAVO_INLINE inline __attribute__((always_inline))

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

}  // namespace octavo::generic
