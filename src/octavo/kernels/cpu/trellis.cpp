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

constexpr float reach = 32768.0f;

struct Branches {
    float cost[4];         // by 2 * quantizer + parity
    std::int16_t index[4];
};

// The best index of one quantizer and parity, without its sign.
template <int quantizer, int parity>
inline void branch(float magnitude, const float* costs, std::int32_t top, float& least_cost, std::int32_t& index) {
    constexpr float first = 2 * parity - quantizer;
    const auto error = [&](std::int32_t k) {
        const float gap = magnitude - static_cast<float>(2 * k - (quantizer != 0 && k > 0));
        return gap * gap + costs[k];
    };
    const std::int32_t nearest = parity + 2 * static_cast<std::int32_t>((magnitude - first) * 0.25f + 0.5f);
    index = std::min(nearest, top - ((top + parity) & 1));
    least_cost = error(index);
    const std::int32_t lower = std::max(index - 2, parity);
    const float lower_cost = error(lower);
    index = lower_cost < least_cost ? lower : index;
    least_cost = std::min(least_cost, lower_cost);
    if (parity == 0) {
        const float zero_cost = error(0);
        index = zero_cost < least_cost ? 0 : index;
        least_cost = std::min(least_cost, zero_cost);
    }
}

inline void branches(float scaled, std::size_t context, const IndexCosts& costs, float* cost, std::int16_t* index) {
    const float size = scaled < 0 ? -scaled : scaled;
    const float magnitude = size < reach ? size : reach;  // also where it is NaN, so that no index runs away
    const std::int32_t top = static_cast<std::int32_t>(costs.sizes) - 1;
    const float* even = costs.table + context * costs.sizes;
    const float* odd = even + costs.contexts * costs.sizes;
    std::int32_t found[4];
    branch<0, 0>(magnitude, even, top, cost[0], found[0]);
    branch<0, 1>(magnitude, even, top, cost[1], found[1]);
    branch<1, 0>(magnitude, odd, top, cost[2], found[2]);
    branch<1, 1>(magnitude, odd, top, cost[3], found[3]);
    const std::int32_t sign = scaled < 0 ? -1 : 0;
    for (int j = 0; j < 4; ++j) index[j] = static_cast<std::int16_t>((found[j] ^ sign) - sign);
}

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
        for (std::size_t i = 0; i < length; ++i)
            branches(scaled[row + i], context[row + i], costs, branch_costs + 4 * i, &column.indices[4 * (row + i)]);
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
