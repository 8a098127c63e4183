// Sixteen numbers at once: one register with AVX-512, two with AVX2, four with the instructions every x86-64 has.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "generic.hpp"

// Vectors are passed between functions that are always inlined, so that no calling convention is involved.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

namespace octavo {
namespace {

constexpr std::size_t numbers_at_once = 16;
using Vector = float __attribute__((vector_size(4 * numbers_at_once)));
using Integers = std::int32_t __attribute__((vector_size(4 * numbers_at_once)));

// e^x is `power`, that of 2, times 1 + rest + rest² · series.
struct Exponential {
    Vector power, rest, series;
};

// Of x between -87 and 87.
OCTAVO_INLINE Exponential split_exponential(Vector x) {
    constexpr float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    const Vector n = (x * 1.44269504f + magic) - magic;
    Exponential found;
    const Vector r = found.rest = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    Vector series = Vector{} + 1.0f / 5040;
    series = series * r + 1.0f / 720;
    series = series * r + 1.0f / 120;
    series = series * r + 1.0f / 24;
    series = series * r + 1.0f / 6;
    found.series = series * r + 0.5f;
    const Integers bits = (__builtin_convertvector(n, Integers) + 127) << 23;
    std::memcpy(&found.power, &bits, sizeof bits);
    return found;
}

}  // namespace
}  // namespace octavo
