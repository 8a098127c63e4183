// The loops for any processor: plain C++ that the compiler vectorizes for the baseline instruction set.
#include "generic.hpp"
#include "loops.hpp"

namespace octavo {
namespace {

void scale(const float* midpoints, std::size_t count, float factor, float* thresholds) {
    generic::scale(midpoints, count, factor, thresholds);
}

void codes(const float* x, std::size_t n, const float* thresholds, std::size_t count, int depth, std::uint8_t* out) {
    const std::size_t cells = std::size_t{1} << depth;
    const std::size_t stride = cells > coarse_cells ? cells / coarse_cells : 1;
    const std::size_t compared = stride > 1 ? coarse_cells - 1 : count;
    for (std::size_t i = 0; i < n; i += lane) {
        std::int32_t found[lane] = {};
        for (std::size_t k = 0; k < compared; ++k) {
            const float threshold = thresholds[(k + 1) * stride - 1];
            for (std::size_t j = 0; j < lane; ++j) found[j] += x[i + j] > threshold;
        }
        for (std::size_t j = 0; j < lane; ++j) {
            std::size_t code = static_cast<std::size_t>(found[j]) * stride;
            for (std::size_t step = stride / 2; step > 0; step /= 2)
                code += x[i + j] > thresholds[code + step - 1] ? step : 0;
            out[i + j] = static_cast<std::uint8_t>(code);
        }
    }
}

void values(const std::uint8_t* codes, std::size_t n, const float* table, std::size_t, float factor, float* out) {
    generic::values(codes, n, table, factor, out);
}

void dot(const float* weights, std::size_t n, const float* x, std::size_t pitch, std::size_t batch, float* out,
         std::size_t out_pitch) {
    generic::dot(weights, n, x, pitch, batch, out, out_pitch);
}

void widen_bfloat16(const std::uint16_t* in, std::size_t n, float* out) { generic::widen_bfloat16(in, n, out); }
void widen_float16(const std::uint16_t* in, std::size_t n, float* out) { generic::widen_float16(in, n, out); }
void narrow_bfloat16(const float* in, std::size_t n, std::uint16_t* out) { generic::narrow_bfloat16(in, n, out); }

void grid_int8(const std::int8_t* codes, std::size_t n, const Points& points, float row, const float* columns,
               float* out) {
    generic::grid(codes, n, points, row, columns, out);
}

void grid_int16(const std::int16_t* codes, std::size_t n, const Points& points, float row, const float* columns,
                float* out) {
    generic::grid(codes, n, points, row, columns, out);
}

void trellis_branches(const float* scaled, const std::uint8_t* context, std::size_t n, const IndexCosts& costs,
                      float* cost, std::int16_t* indices) {
    generic::trellis_branches(scaled, context, n, costs, cost, indices);
}

void trellis_walk(const Trellis& trellis, const float* branches, std::size_t rows, float* cost,
                  std::uint64_t* decisions) {
    generic::trellis_walk(trellis, branches, rows, cost, decisions);
}

void trellis_int8(const Trellis& trellis, const std::int8_t* indices, std::size_t n, std::int16_t* states,
                  std::int16_t* values, std::uint8_t* quantizers) {
    generic::trellis_decode(trellis, indices, n, states, values, quantizers);
}

void trellis_int16(const Trellis& trellis, const std::int16_t* indices, std::size_t n, std::int16_t* states,
                   std::int16_t* values, std::uint8_t* quantizers) {
    generic::trellis_decode(trellis, indices, n, states, values, quantizers);
}

void shift_walk(const ShiftTrellis& trellis, const float* weights, std::size_t steps, float* total,
                std::uint8_t* decisions) {
    generic::shift_walk(trellis, weights, steps, total, decisions);
}

void shift_values(const ShiftTrellis& trellis, const std::uint8_t* streams, std::size_t pitch, std::size_t rows,
                  float* values) {
    generic::shift_values(trellis, streams, pitch, rows, values);
}

}  // namespace

const Loops portable_loops = {
    "portable",      scale,     codes,      values,       dot,            widen_bfloat16,
    widen_float16,   narrow_bfloat16, grid_int8, grid_int16, trellis_branches, trellis_walk,   trellis_int8,  trellis_int16,
    shift_walk,      shift_values,
};

const Loops& choose_loops(bool portable, bool avx512) {
#if OCTAVO_X86
    static const Loops avx512_loops = with_avx512(avx2_loops);
    if (!portable && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c"))
        return avx512 && __builtin_cpu_supports("avx512f") ? avx512_loops : avx2_loops;
#endif
    (void)portable, (void)avx512;
    return portable_loops;
}

}  // namespace octavo
