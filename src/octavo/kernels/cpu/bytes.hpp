// Products with packed codes in whole numbers, for AVX-512 with byte permutations and VNNI: values and inputs are rounded
// to bytes, and four products are summed at a time.
//
// A value is a byte times a unit of the matrix, an input a byte times the scale of inputs_in_block consecutive ones, the
// largest of which is 127. Sums over a lane of a chunk (see lanes.hpp) are exact, and everything after them is float32;
// so a product does not depend on what other vectors there are. The relative error of an output is that of rounding:
// about 0.5 % of its standard deviation for the inputs, and as much for values that are no multiples of a unit.
#pragma once

#include <cstddef>
#include <cstdint>

#include "lanes.hpp"

namespace octavo {

constexpr std::size_t inputs_in_block = 32;

// The byte of zero, so that bytes of values have no sign.
constexpr int middle = 128;

// values[i] is close to unit * (bytes[i] - middle).
struct ByteValues {
    std::uint8_t bytes[max_levels];
    float unit;
};

// The unit, among those that use at least half of the range, of the least squared error. Values are finite.
ByteValues rounded_values(const float* values, std::size_t count);

#if OCTAVO_X86
bool bytes_supported();

// Floats that one vector of inputs takes.
std::size_t bytes_pitch(int width, std::size_t chunks);

// Bytes of `count` inputs, and the scale of every block of them, times `unit`. `count` is a multiple of `block`, and that of
// 16. A block with an input that is no finite number has the scale NaN.
void bytes_narrow(const float* x, std::size_t count, std::size_t block, float unit, std::int8_t* bytes, float* scales);

// One vector of inputs, rounded, in the lanes' order; `plain` is readable up to whole chunks.
void bytes_arrange(int width, std::size_t chunks, float unit, const float* plain, float* out);

// Adds to the sums of a task, lane by lane.
void bytes_add(const LanesCodes& codes, const Task& task);
#endif

}  // namespace octavo
