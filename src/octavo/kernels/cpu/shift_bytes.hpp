// Products with the streams of a bit-shift trellis in whole numbers (see bytes.hpp): values and inputs are bytes.
//
// A state's value is one of a table in the order of a rank that one multiplication gives (octavo/kernels/shift_trellis.py),
// and it rises with the rank. So a table of 256 means of 16 neighbors holds nearly what the table of 4,096 holds: in the
// middle of a curve neighbors differ by less than bytes do. The two cells at the ends, where they differ, are kept value
// by value. That fits into registers, where a look-up takes a small part of one in memory.
#pragma once

#include "bytes.hpp"

namespace octavo {

constexpr std::uint32_t byte_window = 12;
constexpr std::uint32_t max_byte_bits = 5;  // more are as precise as bytes

// Rows whose windows begin in one register.
constexpr std::size_t byte_rows = 64;

struct ShiftBytes {
    std::uint8_t means[256];
    std::uint8_t ends[64];  // by the low six bits of the product
    std::uint8_t first_end; // the lower of the two cells
    float unit;
    Mixer mixer;
    std::uint32_t bits;
};

// From the values of all states. Values are finite.
ShiftBytes rounded_trellis(const float* values, const Mixer& mixer, std::uint32_t bits);

#if OCTAVO_X86
// sums[b * pitch + row] += the products of some columns, a multiple of inputs_in_block or the last ones, in units of the
// inputs' scales. Streams lie `stream_bytes` apart, of which `present` are readable. A vector of inputs takes inputs_pitch
// floats: bytes, and from `scales` on two numbers a block, its scale and what its sum begins with. `sums` is writable up
// to a multiple of byte_rows.
void shift_bytes_sums(const ShiftBytes& trellis, const std::uint8_t* streams, std::size_t stream_bytes,
                      std::size_t present, std::size_t columns, std::size_t rows, const float* inputs,
                      const float* scales, std::size_t inputs_pitch, std::size_t batch, float* sums, std::size_t pitch);
#endif

}  // namespace octavo
