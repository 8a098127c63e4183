// Streams in row order: the context of a weight may depend on the indices above it in its column.
#include <algorithm>
#include <array>
#include <atomic>
#include <span>

#include "ans.hpp"
#include "ans_coder.hpp"
#include "threads.hpp"

namespace octavo::ans {
namespace {

constexpr std::size_t least = std::size_t{1} << 16;

// What the tables of a row of weights depend on: those of its contexts, and the states of the columns, which change as rows
// go by.
class Walk {
  public:
    Walk(const Grid& grid, const Machine& machine, std::uint8_t* states)
        : grid_(grid), machine_(machine), columns_(bounded_columns(grid)), states_(states), contexts_(grid.columns) {
        for (std::size_t state = 0; state < machine.states; ++state)
            offset_[state] = static_cast<std::uint8_t>(machine.quantizer[state] * grid.contexts());
    }

    void enter(std::size_t row) { row_contexts(grid_, row, columns_.data(), contexts_.data()); }

    std::size_t table(std::size_t column) const { return std::size_t{contexts_[column]} + offset_[states_[column]]; }

    // Moves a column's state; returns the quantizer of the index.
    int leave(std::size_t column, int index) {
        const std::uint8_t state = states_[column];
        states_[column] = machine_.next[2 * state + (index & 1)];
        return machine_.quantizer[state];
    }

  private:
    const Grid& grid_;
    const Machine& machine_;
    std::vector<std::int16_t> columns_;
    std::uint8_t* states_;
    std::vector<std::uint8_t> contexts_;
    std::array<std::uint8_t, 256> offset_{};
};

// The columns of a strip, as a grid of their own.
Grid strip_of(const Grid& grid, std::size_t strip) {
    Grid part = grid;
    part.column_scale += strip * grid.extent;
    part.columns = std::min(grid.columns - strip * grid.extent, grid.extent);
    return part;
}

// `words` are those of the strip, and `out` points to its first weight, rows being `pitch` weights apart.
template <bool positions>
bool decode_strip(std::span<const std::uint32_t> words, const Grid& grid, const Machine& machine,
                  const std::vector<View>& views, std::uint64_t* coders, std::uint8_t* states, bool more, std::int16_t* out,
                  std::size_t pitch) {
    std::uint64_t state[lanes], &taken = coders[lanes];
    if (words.size() < std::max<std::uint64_t>(head, taken)) return false;
    const std::uint32_t* word = words.data() + taken;
    const std::uint32_t* const end = words.data() + words.size();
    if (taken == 0)
        for (std::size_t lane = 0; lane < lanes; ++lane, word += 2) coders[lane] = word[0] | std::uint64_t{word[1]} << 32;
    std::copy_n(coders, lanes, state);
    for (const std::uint64_t each : state)
        if (each < least_state) return false;
    bool present = true;
    Walk walk(grid, machine, states);
    std::int16_t* to = out;
    const auto step = [&](std::uint64_t& mine, std::size_t column) {
        const View& table = views[walk.table(column)];
        present &= table.size != 0;
        const auto index = static_cast<std::int16_t>(static_cast<std::int32_t>(take(mine, table)) + table.lowest);
        if (mine < least_state && word != end) mine = (mine << 32) | *word++;
        const int quantizer = walk.leave(column, index), sign = (index > 0) - (index < 0);
        to[column] = positions ? static_cast<std::int16_t>(2 * index - sign * quantizer) : index;
    };
    for (std::size_t row = 0; row < grid.rows && present; ++row, to += pitch) {
        walk.enter(row);
        std::size_t j = 0;
        for (; j + lanes <= grid.columns; j += lanes) {
            static_assert(lanes == 4);
            step(state[0], j), step(state[1], j + 1), step(state[2], j + 2), step(state[3], j + 3);
        }
        for (std::size_t lane = 0; j + lane < grid.columns; ++lane) step(state[lane], j + lane);
    }
    std::copy_n(state, lanes, coders);
    taken = static_cast<std::uint64_t>(word - words.data());
    const auto ended = [](std::uint64_t rest) { return rest == least_state; };
    return present && (more || (word == end && std::all_of(state, state + lanes, ended)));
}

// Writes the words of a strip to the end of its room and moves them to the front.
std::int64_t encode_strip(const std::int16_t* indices, std::size_t pitch, const Grid& grid, const Machine& machine,
                          const std::vector<Table>& tables, std::uint8_t* chosen, std::uint32_t* words,
                          std::size_t stride) {
    std::vector<std::uint8_t> states(grid.columns);
    Walk walk(grid, machine, states.data());
    for (std::size_t row = 0; row < grid.rows; ++row) {
        walk.enter(row);
        for (std::size_t j = 0; j < grid.columns; ++j) {
            chosen[row * grid.columns + j] = static_cast<std::uint8_t>(walk.table(j));
            walk.leave(j, indices[row * pitch + j]);
        }
    }
    Put put[lanes];
    for (Put& lane : put) lane.state = least_state;
    std::uint32_t* word = words + stride;
    for (std::size_t row = grid.rows; row-- > 0;)
        for (std::size_t j = grid.columns; j-- > 0;) {
            const Table& table = tables[chosen[row * grid.columns + j]];
            const std::int32_t integer = indices[row * pitch + j];
            if (!codable(table, integer)) return -1;
            const std::uint32_t* const at = table.cumulative + (integer - table.lowest);
            Put& lane = put[j % lanes];
            if (lane.full(at[1] - at[0])) *--word = lane.word();
            lane.symbol(at[0], at[1] - at[0]);
        }
    for (std::size_t lane = lanes; lane-- > 0;) {
        *--word = static_cast<std::uint32_t>(put[lane].state >> 32);
        *--word = static_cast<std::uint32_t>(put[lane].state);
    }
    std::move(word, words + stride, words);
    return words + stride - word;
}

}  // namespace

bool decode_rows(const std::uint32_t* words, const Offsets& offsets, const Grid& grid, const Machine& machine,
                 const Search& search, bool positions, std::uint64_t* coders, std::uint8_t* states, bool more,
                 std::int16_t* out, std::size_t threads) {
    std::vector<View> views;
    for (std::size_t table = 0; table < search.tables().size(); ++table) views.push_back(view(search, table));
    const auto decode = positions ? decode_strip<true> : decode_strip<false>;
    std::atomic<bool> sound = true;
    in_ranges(grid.strips(), 1, grid.rows * grid.extent, threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t strip = begin; strip < end; ++strip) {
            const std::span own(words + offsets[strip], words + offsets[strip + 1]);
            const std::size_t first = strip * grid.extent;
            if (!decode(own, strip_of(grid, strip), machine, views, coders + strip * (lanes + 1), states + first, more,
                        out + first, grid.columns))
                sound = false;
        }
    }, least);
    return sound;
}

bool encode_rows(const std::int16_t* indices, const Grid& grid, const Machine& machine,
                 const std::vector<Table>& tables, std::uint32_t* words, std::int64_t* lengths, std::size_t threads) {
    const std::size_t size = grid.rows * grid.extent, stride = room(size);
    std::atomic<bool> coded = true;
    in_ranges(grid.strips(), 1, size, threads, [&](std::size_t begin, std::size_t end) {
        std::vector<std::uint8_t> chosen(size);
        for (std::size_t strip = begin; strip < end; ++strip) {
            lengths[strip] = encode_strip(indices + strip * grid.extent, grid.columns, strip_of(grid, strip), machine,
                                          tables, chosen.data(), words + strip * stride, stride);
            if (lengths[strip] < 0) coded = false;
        }
    }, least);
    return coded;
}

}  // namespace octavo::ans
