#include "trellis.hpp"

#include <algorithm>
#include <limits>
#include <vector>

#include "threads.hpp"

namespace octavo {
namespace {

// So many neighboring columns share the lines of the cache that they are read through.
constexpr std::size_t strip = 16;

// A path is several times as much work as a code.
constexpr std::size_t least = least_per_thread / 16;

struct Column {
    std::vector<std::int16_t> indices;      // 4 a row
    std::vector<std::uint64_t> decisions;   // one bit a state

    explicit Column(std::size_t rows) : indices(4 * rows), decisions(rows) {}
};

void encode(const Loops& loops, const Trellis& trellis, const float* scaled, const std::uint8_t* context,
            std::size_t rows, const IndexCosts& costs, Column& column, std::int16_t* out) {
    const std::uint32_t states = trellis.states, half = states / 2;
    alignas(32) float total[max_states];
    std::fill(total, total + max_states, std::numeric_limits<float>::infinity());
    total[0] = 0;
    float branch_costs[4 * trellis_period];
    for (std::size_t row = 0; row < rows; row += trellis_period) {
        const std::size_t length = std::min(trellis_period, rows - row);
        loops.trellis_branches(scaled + row, context + row, length, costs, branch_costs, &column.indices[4 * row]);
        loops.trellis_walk(trellis, branch_costs, length, total, &column.decisions[row]);
        if (length == trellis_period) {
            const float smallest = *std::min_element(total, total + states);
            for (std::uint32_t state = 0; state < states; ++state) total[state] -= smallest;
        }
    }
    // Costs lie by quantizer first, as trellis_walk leaves them.
    const auto cost_of = [&](std::uint32_t state) { return total[(state & 1) * half + (state >> 1)]; };
    std::uint32_t state = 0;
    for (std::uint32_t other = 1; other < states; ++other)
        if (cost_of(other) < cost_of(state)) state = other;
    for (std::size_t row = rows; row-- > 0;) {
        const std::uint32_t parity = static_cast<std::uint32_t>(column.decisions[row] >> state) & 1;
        const std::uint32_t quantizer = state / half;
        out[row] = column.indices[4 * row + 2 * quantizer + parity];
        state = 2 * ((state ^ (quantizer ? trellis.h0 : 0) ^ (parity ? trellis.h1 : 0)) & (half - 1)) + quantizer;
    }
}

}  // namespace

void trellis_indices(const Loops& loops, const Trellis& trellis, const float* scaled, const std::uint8_t* context,
                     Shape shape, const IndexCosts& costs, std::int16_t* out, std::size_t threads) {
    const std::size_t rows = shape.rows, cols = shape.cols;
    in_ranges(cols, 1, rows, threads, [&](std::size_t begin, std::size_t end) {
        const std::size_t width = std::min(strip, end - begin);
        std::vector<float> weights(width * rows);
        std::vector<std::uint8_t> contexts(width * rows);
        std::vector<std::int16_t> indices(width * rows);
        Column column(rows);
        for (std::size_t col = begin; col < end; col += strip) {
            const std::size_t count = std::min(strip, end - col);
            for (std::size_t row = 0; row < rows; ++row)
                for (std::size_t j = 0; j < count; ++j) {
                    weights[j * rows + row] = scaled[row * cols + col + j];
                    contexts[j * rows + row] = context[row * cols + col + j];
                }
            for (std::size_t j = 0; j < count; ++j)
                encode(loops, trellis, &weights[j * rows], &contexts[j * rows], rows, costs, column,
                       &indices[j * rows]);
            for (std::size_t row = 0; row < rows; ++row)
                for (std::size_t j = 0; j < count; ++j) out[row * cols + col + j] = indices[j * rows + row];
        }
    }, least);
}

void trellis_decode(const Loops& loops, const Trellis& trellis, const void* indices, bool wide, Shape shape,
                    std::int16_t* values, std::uint8_t* quantizers, std::size_t threads) {
    in_ranges(shape.cols, 1, shape.rows, threads, [&](std::size_t begin, std::size_t end) {
        const std::size_t count = end - begin;
        std::vector<std::int16_t> states(count, 0);
        for (std::size_t row = 0; row < shape.rows; ++row) {
            const std::size_t flat = row * shape.cols + begin;
            std::int16_t* value = values == nullptr ? nullptr : values + flat;
            std::uint8_t* quantizer = quantizers == nullptr ? nullptr : quantizers + flat;
            if (wide)
                loops.trellis_int16(trellis, static_cast<const std::int16_t*>(indices) + flat, count, states.data(),
                                    value, quantizer);
            else
                loops.trellis_int8(trellis, static_cast<const std::int8_t*>(indices) + flat, count, states.data(),
                                   value, quantizer);
        }
    });
}

}  // namespace octavo
