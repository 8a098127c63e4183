// Paths through a bit-shift trellis, up the columns of a matrix. The trellis is described in
// octavo/kernels/shift_trellis.py, and every result is defined in octavo/kernels/reference/shift_trellis.py.
#pragma once

#include <cstddef>
#include <cstdint>

#include "codebook.hpp"
#include "loops.hpp"

namespace octavo {

// `out` takes shape.cols streams of stream_bytes each.
void shift_encode(const Loops& loops, const ShiftTrellis& trellis, const float* scaled, Shape shape,
                  std::uint8_t* out, std::size_t stream_bytes, std::size_t threads);

// Streams hold at least shape.rows codes; what lies beyond their end counts as zeros.
void shift_decode(const Loops& loops, const ShiftTrellis& trellis, const std::uint8_t* codes,
                  std::size_t stream_bytes, Shape shape, const Scales& scales, const float* column, float* out,
                  std::size_t threads);

}  // namespace octavo
