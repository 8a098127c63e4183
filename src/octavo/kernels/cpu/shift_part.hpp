// Products with the streams of a bit-shift trellis for AVX-512 with byte permutations: sixteen rows at a time.
#pragma once

#include "product.hpp"

namespace octavo {

// Rows whose windows begin in one register, for codes of so many bits at most.
constexpr std::size_t lanes_rows = 64;
constexpr std::uint32_t max_lanes_bits = 7;

#if OCTAVO_X86
// sums[b * pitch + row] += the products of some columns, `rows` rows from one on whose codes begin with a byte. Streams
// lie `stream_bytes` apart, of which `present` are readable. `sums` is writable up to a multiple of lanes_rows.
void shift_sums(const ShiftTrellis& trellis, const std::uint8_t* streams, std::size_t stream_bytes,
                std::size_t present, std::size_t columns, std::size_t rows, const float* inputs,
                std::size_t inputs_pitch, std::size_t batch, float* sums, std::size_t pitch);

// The values of a curve at `count` places, a multiple of 16: linear between 17 knots.
void curve_values(const float* curve, const float* places, std::size_t count, float* values);
#endif

}  // namespace octavo
