// Products with packed codes in whole numbers, for AMX: what bytes.hpp does, sixteen rows at a time and up to sixteen
// vectors of inputs.
//
// Codes of a block of scales, or 64 or 32 of them where it is longer, are a slice: looked up, they are bytes of one tile, the
// inputs that they meet are bytes of another, and the product of the two is exact. The sums of slices are scaled and
// added in float32, in their order, so that a product does not depend on what other vectors there are.
#pragma once

#include <cstddef>
#include <cstdint>

#include "bytes.hpp"
#include "product.hpp"

namespace octavo {

// Vectors of a tile. One vector alone lies closer together.
constexpr std::size_t vectors_in_tile = vectors_in_group;

// Codes that are looked up at once.
constexpr std::size_t codes_in_load = 64;

struct TileCodes {
    const std::uint8_t* codes;
    std::size_t row_bytes;
    std::size_t count;  // codes of a row that are multiplied
    int width;
    std::size_t slice;  // codes of one scale and one tile, 32 or 64
    const std::int8_t* values;  // of all 2^width codes, repeated up to 256
    Factors scales;

    std::size_t loads() const { return (count + codes_in_load - 1) / codes_in_load; }
    std::size_t slices() const { return loads() * (codes_in_load / slice); }
};

// The codes of a slice for scales of so many codes; 0 if there is none.
std::size_t slice_of(const Factors& scales);

#if OCTAVO_X86
// Whether this processor has the instructions, and the system lets this process use them.
bool tiles_supported();

// Floats that one vector of inputs takes.
std::size_t tiles_pitch(const TileCodes& codes);

// Vectors of inputs, at most `room`, which is 1 or vectors_in_tile, rounded and laid out as tiles. `plain` vectors lie
// `pitch` apart and are zero from codes.count up to whole loads.
void tiles_arrange(const TileCodes& codes, float unit, const float* plain, std::size_t pitch, std::size_t vectors,
                   std::size_t room, float* out);

// Adds to the outputs of a task.
void tiles_add(const TileCodes& codes, const Task& task);
#endif

}  // namespace octavo
