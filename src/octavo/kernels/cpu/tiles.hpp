// Products with packed codes in whole numbers, for AMX and AVX-512 VNNI: what bytes.hpp does, sixteen rows at a time and up to
// sixteen vectors of inputs.
//
// Codes of a block of scales, or 64 or 32 of them where it is longer, are a slice: looked up, they are bytes of one tile, the
// inputs that they meet are bytes of another, and the product of the two is exact. The sums of slices are scaled and
// added in float32, in their order, so that a product does not depend on what other vectors there are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "bytes.hpp"
#include "product.hpp"

namespace octavo {

// Vectors of a tile. One vector alone lies closer together.
constexpr std::size_t vectors_in_tile = vectors_in_group;

// Codes that are looked up at once.
constexpr std::size_t codes_in_load = 64;

// Of slices: the first block of scales that they have, which of those from there on, and which of these each slice has.
constexpr std::size_t slices_together = 16;
struct SliceBlocks {
    alignas(64) std::int32_t place[slices_together];
    std::size_t first;
    std::uint16_t present;
};

struct TileCodes {
    const std::uint8_t* codes;
    std::size_t row_bytes;
    std::size_t count;  // codes of a row that are multiplied
    int width;
    std::size_t slice;  // codes of one scale and one tile, 32 or 64
    const std::int8_t* values;  // of all 2^width codes, repeated up to 256
    Factors scales;
    std::vector<SliceBlocks> blocks;
    alignas(64) std::uint8_t order[codes_in_load];  // which input each byte of a load meets

    std::size_t loads() const { return (count + codes_in_load - 1) / codes_in_load; }
    std::size_t slices() const { return loads() * (codes_in_load / slice); }
};

// Codes and their scales; slices are of 0 codes if there are none for such scales.
TileCodes tile_codes(const std::uint8_t* codes, std::size_t row_bytes, std::size_t count, int width,
                     const std::int8_t* values, const Factors& scales);

#if OCTAVO_X86
// Whether this processor has the instructions; those of AMX are used if it has them, too.
bool tiles_supported();

// So few vectors are faster one by one than together.
std::size_t tiles_few();

// Floats that one vector of inputs takes.
std::size_t tiles_pitch(const TileCodes& codes);

// Whether inputs are laid out for both alike.
bool tiles_arrange_like(const TileCodes& codes, const TileCodes& others);

// Some loads of vectors of inputs, at most `room`, which is 1 or vectors_in_tile, rounded and laid out as tiles. `plain`
// vectors lie `pitch` apart and are zero from codes.count up to whole loads.
void tiles_arrange(const TileCodes& codes, const float* plain, std::size_t pitch, std::size_t vectors, std::size_t room,
                   std::size_t begin, std::size_t end, float* out);

// Adds to the outputs of a task; a value is so many units.
void tiles_add(const TileCodes& codes, float unit, const Task& task);
#endif

}  // namespace octavo
