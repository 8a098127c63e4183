// The loops of bit-shift trellises for AVX2; see Loops.
#pragma once

#include "loops.hpp"

namespace octavo::shift_avx2 {

void shift_walk(const ShiftTrellis& trellis, const float* weights, std::size_t steps, float* total,
                std::uint8_t* decisions);

void shift_values(const ShiftTrellis& trellis, const std::uint8_t* streams, std::size_t pitch, std::size_t rows,
                  float* values);

}  // namespace octavo::shift_avx2
