// Values of integer grid codes with a row x column step. Defined in octavo/kernels/reference/separable.py.
#pragma once

#include <cstddef>
#include <cstdint>

#include "codebook.hpp"
#include "loops.hpp"

namespace octavo {

// `wide` codes are int16, others int8; `points` (or null) holds 2 * half + 1 values of the codes -half ... half.
void separable_dequantize(const Loops& loops, const void* codes, bool wide, Shape shape, const float* row_step,
                          const float* column_step, const float* points, std::size_t half, void* out, Kind kind,
                          std::size_t threads);

}  // namespace octavo
