// One step of an ANS coder, and the contexts of a row: what the loops over blocks share.
#pragma once

#include <algorithm>
#include <cstdint>

#include "ans.hpp"

namespace octavo::ans {

// A table as the inner loop needs it. An absent one has size 0, and one symbol for those who ask too late.
struct View {
    const std::uint32_t* cumulative;
    const std::uint16_t* first;
    std::uint32_t size;
    std::int32_t lowest;
};

inline View view(const Search& search, std::size_t table) {
    static constexpr std::uint32_t none[] = {0, whole};
    const Table& found = search.tables()[table];
    if (found.size == 0) return {none, search.first(table), 0, 0};
    return {found.cumulative, search.first(table), found.size, found.lowest};
}

// Takes the next symbol from a state, which may then need another word.
inline std::uint32_t take(std::uint64_t& state, const View& table) {
    const std::uint32_t quantile = static_cast<std::uint32_t>(state) & (whole - 1);
    std::uint32_t symbol = table.first[quantile >> (precision - cell_bits)];
    if (quantile >= table.cumulative[symbol + 1]) [[unlikely]] {
        const std::uint32_t* next = table.cumulative + symbol + 2;
        const std::uint32_t* end = table.cumulative + table.size + 1;
        // Rare symbols crowd in the last cells.
        for (int step = 0; step < 8 && quantile >= *next; ++step) ++next;
        if (quantile >= *next) next = std::upper_bound(next, end, quantile);
        symbol = static_cast<std::uint32_t>(next - table.cumulative) - 1;
    }
    const std::uint32_t left = table.cumulative[symbol], right = table.cumulative[symbol + 1];
    state = (state >> precision) * (right - left) + (quantile - left);
    return symbol;
}

// Where the words of a block are written, from the last that a decoder reads to the first.
struct Put {
    std::uint64_t state;
    // Whether the state must give a word away before it takes in a symbol of this probability.
    bool full(std::uint32_t probability) const { return (state >> (64 - precision)) >= probability; }
    std::uint32_t word() {
        const auto low = static_cast<std::uint32_t>(state);
        state >>= 32;
        return low;
    }
    void symbol(std::uint32_t left, std::uint32_t probability) {
        state = ((state / probability) << precision) + left + state % probability;
    }
};

// Whether a symbol can be coded: it is in the table and has a quantile.
inline bool codable(const Table& table, std::int32_t integer) {
    const std::int32_t symbol = integer - table.lowest;
    return symbol >= 0 && symbol < static_cast<std::int32_t>(table.size) &&
           table.cumulative[symbol + 1] > table.cumulative[symbol];
}

constexpr std::int16_t floor_scale = 12;
constexpr std::int16_t farthest_scale = 999;

inline std::int16_t bounded_scale(std::int16_t scale) {
    return std::clamp<std::int16_t>(scale, -farthest_scale, farthest_scale);
}

// Contexts of the weights of one row; `columns` holds bounded scales.
inline void row_contexts(const Grid& grid, std::size_t row, const std::int16_t* columns, std::uint8_t* contexts) {
    const auto scale = static_cast<std::int16_t>(bounded_scale(grid.row_scale[row]) + floor_scale);
    const int shift = grid.shift;
    for (std::size_t j = 0; j < grid.columns; ++j) {
        const auto sum = static_cast<std::int16_t>(scale + columns[j]);
        contexts[j] = static_cast<std::uint8_t>(std::clamp<std::int16_t>(sum, 0, finest - 1) >> shift);
    }
}

inline std::vector<std::int16_t> bounded_columns(const Grid& grid) {
    std::vector<std::int16_t> bounded(grid.column_scale, grid.column_scale + grid.columns);
    for (std::int16_t& scale : bounded) scale = bounded_scale(scale);
    return bounded;
}

}  // namespace octavo::ans
