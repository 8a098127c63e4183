// Paths through a trellis of two quantizers, down the columns of a matrix. The trellis is described in
// octavo/kernels/trellis.py, and every result is defined in octavo/kernels/reference/trellis.py.
#pragma once

#include <cstddef>
#include <cstdint>

#include "codebook.hpp"
#include "loops.hpp"

namespace octavo {

// Contexts lie below costs.contexts. `out` takes rows * cols indices.
void trellis_indices(const Loops& loops, const Trellis& trellis, const float* scaled, const std::uint8_t* context,
                     Shape shape, const IndexCosts& costs, std::int16_t* out, std::size_t threads);

// Values in fine steps (`values`, or null) or quantizers (`quantizers`, or null) of int16 (`wide`) or int8 indices.
void trellis_decode(const Loops& loops, const Trellis& trellis, const void* indices, bool wide, Shape shape,
                    std::int16_t* values, std::uint8_t* quantizers, std::size_t threads);

}  // namespace octavo
