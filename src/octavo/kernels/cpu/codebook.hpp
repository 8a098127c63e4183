// Quantizing to a scaled codebook and back, over threads. Results are defined in octavo/kernels/reference/codebook.py.
#pragma once

#include <cstddef>
#include <cstdint>

#include "layout.hpp"
#include "loops.hpp"

namespace octavo {

enum class Kind { float32, bfloat16, float16 };

// Scales lie as rows of `blocks`, one row a row of weights, or one row for all of them (shared).
struct Scales {
    const float* data;
    std::size_t blocks;
    std::size_t block;
    bool shared;
};

struct Shape {
    std::size_t rows;
    std::size_t cols;
};

// `midpoints` are layout.levels - 1 or fewer, ascending; `out` takes layout.packed_bytes(rows * cols) bytes.
void quantize_pack(const Loops& loops, const Layout& layout, const void* weights, Kind kind, Shape shape,
                   const Scales& scales, const float* midpoints, std::size_t count, std::uint8_t* out,
                   std::size_t threads);

// `codebook` has layout.levels entries; `out` takes rows * cols values of `kind` (float32 or bfloat16).
void unpack_dequantize(const Loops& loops, const Layout& layout, const std::uint8_t* packed, Shape shape,
                       const Scales& scales, const float* codebook, void* out, Kind kind, std::size_t threads);

}  // namespace octavo
