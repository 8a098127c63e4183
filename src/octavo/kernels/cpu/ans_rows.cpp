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

// The tables of a row of weights, and the states of the columns, which change as rows go by.
class Walk {
  public:
    Walk(const Grid& grid, const Machine& machine, std::uint8_t* states)
        : grid_(grid), machine_(machine), columns_(bounded_columns(grid)), states_(states), tables_(grid.columns) {
        for (std::size_t state = 0; state < machine.states; ++state)
            offset_[state] = static_cast<std::uint8_t>(machine.quantizer[state] * grid.contexts());
    }

    // The table of each weight of a row.
    const std::uint8_t* tables(std::size_t row) {
        row_contexts(grid_, row, columns_.data(), tables_.data());
        if (machine_.states > 1)
            for (std::size_t j = 0; j < grid_.columns; ++j)
                tables_[j] = static_cast<std::uint8_t>(tables_[j] + offset_[states_[j]]);
        return tables_.data();
    }

    void leave(const std::int16_t* row) {
        if (machine_.states > 1)
            for (std::size_t j = 0; j < grid_.columns; ++j)
                states_[j] = machine_.next[2 * states_[j] + (row[j] & 1)];
    }

    // The same, and indices become positions.
    void leave_positions(std::int16_t* row) {
        for (std::size_t j = 0; j < grid_.columns; ++j) {
            const int index = row[j], sign = (index > 0) - (index < 0);
            row[j] = static_cast<std::int16_t>(2 * index - sign * machine_.quantizer[states_[j]]);
            states_[j] = machine_.next[2 * states_[j] + (index & 1)];
        }
    }

  private:
    const Grid& grid_;
    const Machine& machine_;
    std::vector<std::int16_t> columns_;
    std::uint8_t* states_;
    std::vector<std::uint8_t> tables_;
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
bool decode_strip(std::span<const std::uint32_t> words, const Grid& grid, const Machine& machine, const Search& search,
                  const std::vector<View>& views, bool positions, std::uint64_t* coders, std::uint8_t* states, bool more,
                  std::int16_t* out, std::size_t pitch) {
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
    for (const Table& table : search.tables()) present &= table.size != 0;
    const auto step = [&](std::uint64_t& mine, const View& table, std::int16_t& to) {
        to = static_cast<std::int16_t>(static_cast<std::int32_t>(take(mine, table)) + table.lowest);
        if (mine < least_state && word != end) mine = (mine << 32) | *word++;
    };
    Walk walk(grid, machine, states);
    for (std::size_t row = 0; row < grid.rows; ++row) {
        const std::uint8_t* const tables = walk.tables(row);
        std::int16_t* const to = out + row * pitch;
        if (!present)
            for (std::size_t j = 0; j < grid.columns; ++j)
                if (views[tables[j]].size == 0) return false;
        std::size_t j = 0;
        for (; j + lanes <= grid.columns; j += lanes)
            for (std::size_t lane = 0; lane < lanes; ++lane) step(state[lane], views[tables[j + lane]], to[j + lane]);
        for (std::size_t lane = 0; j + lane < grid.columns; ++lane)
            step(state[lane], views[tables[j + lane]], to[j + lane]);
        if (positions) walk.leave_positions(to);
        else walk.leave(to);
    }
    std::copy_n(state, lanes, coders);
    taken = static_cast<std::uint64_t>(word - words.data());
    return more || (word == end && std::all_of(state, state + lanes, [](auto rest) { return rest == least_state; }));
}

// Writes the words of a strip to the end of its room and moves them to the front.
std::int64_t encode_strip(const std::int16_t* indices, std::size_t pitch, const Grid& grid, const Machine& machine,
                          const std::vector<Table>& tables, std::uint8_t* chosen, std::uint32_t* words,
                          std::size_t stride) {
    std::vector<std::uint8_t> states(grid.columns);
    Walk walk(grid, machine, states.data());
    for (std::size_t row = 0; row < grid.rows; ++row) {
        std::copy_n(walk.tables(row), grid.columns, chosen + row * grid.columns);
        walk.leave(indices + row * pitch);
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
    std::atomic<bool> sound = true;
    in_ranges(grid.strips(), 1, grid.rows * grid.extent, threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t strip = begin; strip < end; ++strip) {
            const std::span own(words + offsets[strip], words + offsets[strip + 1]);
            const std::size_t first = strip * grid.extent;
            if (!decode_strip(own, strip_of(grid, strip), machine, search, views, positions,
                              coders + strip * (lanes + 1), states + first, more, out + first, grid.columns))
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
