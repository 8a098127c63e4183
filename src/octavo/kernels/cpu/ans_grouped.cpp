// Streams in which the integers of a block are grouped by context. Up to four blocks are decoded side by side in one
// thread: a coder's steps depend on each other, those of different blocks do not.
#include <array>
#include <atomic>
#include <numeric>

#include "ans.hpp"
#include "ans_coder.hpp"
#include "threads.hpp"

namespace octavo::ans {
namespace {

constexpr std::size_t abreast = 4;
constexpr std::size_t least = std::size_t{1} << 16;

// One block on its way.
struct Lane {
    std::uint64_t state = 0;
    const std::uint32_t* begin;
    const std::uint32_t* end;
    const std::int64_t* counts;
    std::int16_t* out;
    std::size_t context = 0;
    std::size_t remaining = 0;
    bool sound = true;
    View table{};

    Lane(const std::uint32_t* first, const std::uint32_t* last, const std::int64_t* number, std::int16_t* to)
        : begin(first), end(last), counts(number), out(to) {
        if (begin == end) return;
        sound = end[-1] != 0;
        state = *--end;
        refill();
    }

    void refill() {
        if (state < least_state && begin != end) state = (state << 32) | *--end;
    }

    void step() {
        *out++ = static_cast<std::int16_t>(static_cast<std::int32_t>(take(state, table)) + table.lowest);
        refill();
    }

    // Goes on to the next context in use; false at the end of the block.
    bool advance(const Search& search) {
        while (remaining == 0) {
            if (context == search.tables().size()) return false;
            remaining = static_cast<std::size_t>(counts[context]);
            if (remaining != 0) {
                if (search.tables()[context].size == 0) return sound = false;
                table = view(search, context);
            }
            ++context;
        }
        return true;
    }

    bool finish(const Search& search) {
        while (sound && advance(search))
            for (; remaining != 0; --remaining) step();
        return sound && state == 0 && begin == end;
    }
};

template <std::size_t count>
bool decode_side_by_side(std::array<Lane, count> lanes, const Search& search) {
    for (;;) {
        std::size_t run = SIZE_MAX;
        for (Lane& lane : lanes) run = lane.advance(search) ? std::min(run, lane.remaining) : 0;
        for (Lane& lane : lanes)
            if (lane.remaining == 0) run = 0;
        if (run == 0) break;
        for (std::size_t step = 0; step < run; ++step)
            for (Lane& lane : lanes) lane.step();
        for (Lane& lane : lanes) lane.remaining -= run;
    }
    bool sound = true;
    for (Lane& lane : lanes) sound &= lane.finish(search);
    return sound;
}

// Decodes blocks first, first + 1, … as many as `made` makes lanes for.
template <typename Made>
bool decode_some(std::size_t number, const Search& search, const Made& made) {
    if (number >= 4) return decode_side_by_side<4>({made(0), made(1), made(2), made(3)}, search);
    if (number >= 2) {
        const bool sound = decode_side_by_side<2>({made(0), made(1)}, search);
        return (number == 2 || decode_side_by_side<1>({made(2)}, search)) && sound;
    }
    return decode_side_by_side<1>({made(0)}, search);
}

// How often each context occurs in a block: the same for two rows of one scale, and found from the columns' scales.
void count_contexts(const Grid& grid, std::size_t block, const std::int64_t* columns_of_scale, std::int64_t* counts) {
    std::fill_n(counts, grid.contexts(), 0);
    const std::size_t last = std::min(grid.rows, (block + 1) * grid.extent);
    for (std::size_t row = block * grid.extent; row < last; ++row) {
        const int scale = bounded_scale(grid.row_scale[row]) + floor_scale;
        for (int column = -farthest_scale; column <= farthest_scale; ++column) {
            const std::int64_t number = columns_of_scale[column + farthest_scale];
            if (number != 0) counts[std::clamp(scale + column, 0, finest - 1) >> grid.shift] += number;
        }
    }
}

std::vector<std::int64_t> count_columns(const std::vector<std::int16_t>& columns) {
    std::vector<std::int64_t> number(2 * farthest_scale + 1);
    for (const std::int16_t scale : columns) ++number[static_cast<std::size_t>(scale + farthest_scale)];
    return number;
}

struct Block {
    std::size_t first, last;  // rows
};

Block block_of(const Grid& grid, std::size_t block) {
    return {block * grid.extent, std::min(grid.rows, (block + 1) * grid.extent)};
}

// Calls visit(position in the matrix, position in the block's groups) for every weight of a block, row by row.
template <typename Visit>
void walk(const Grid& grid, std::size_t block, const std::vector<std::int16_t>& columns, const std::int64_t* counts,
          std::uint8_t* contexts, const Visit& visit) {
    std::array<std::uint32_t, finest> next{};
    for (std::size_t context = 1; context < grid.contexts(); ++context)
        next[context] = next[context - 1] + static_cast<std::uint32_t>(counts[context - 1]);
    const Block rows = block_of(grid, block);
    for (std::size_t row = rows.first; row < rows.last; ++row) {
        row_contexts(grid, row, columns.data(), contexts);
        const std::size_t flat = row * grid.columns;
        for (std::size_t j = 0; j < grid.columns; ++j) visit(flat + j, next[contexts[j]]++);
    }
}

// Writes the words of one block; returns their number, or -1 where an integer cannot be coded.
std::int64_t encode_block(const std::int16_t* integers, const std::int64_t* counts, const std::vector<Table>& tables,
                          std::uint32_t* words) {
    const std::int16_t* end = integers;
    for (std::size_t context = 0; context < tables.size(); ++context) end += counts[context];
    Put put{0};
    const std::uint32_t* const begin = words;
    for (std::size_t context = tables.size(); context-- > 0;) {
        const Table& table = tables[context];
        for (std::int64_t k = 0; k < counts[context]; ++k) {
            const std::int32_t integer = *--end;
            if (!codable(table, integer)) return -1;
            const std::uint32_t* const at = table.cumulative + (integer - table.lowest);
            if (put.full(at[1] - at[0])) *words++ = put.word();
            put.symbol(at[0], at[1] - at[0]);
        }
    }
    while (put.state != 0) *words++ = put.word();
    return words - begin;
}

}  // namespace

Search::Search(std::vector<Table> tables) : tables_(std::move(tables)), first_(tables_.size() * cells) {
    for (std::size_t t = 0; t < tables_.size(); ++t) {
        const Table& table = tables_[t];
        std::uint32_t symbol = 0;
        for (std::size_t cell = 0; table.size != 0 && cell < cells; ++cell) {
            const auto quantile = static_cast<std::uint32_t>(cell << (precision - cell_bits));
            while (table.cumulative[symbol + 1] <= quantile) ++symbol;
            first_[t * cells + cell] = static_cast<std::uint16_t>(std::min<std::uint32_t>(symbol, UINT16_MAX));
        }
    }
}

bool decode_grouped(const std::uint32_t* words, const Offsets& offsets, const std::int64_t* counts,
                    const Search& search, std::int16_t* out, std::size_t threads) {
    const std::size_t contexts = search.tables().size(), blocks = offsets.size() - 1;
    std::vector<std::size_t> starts(blocks + 1);
    for (std::size_t block = 0; block < blocks; ++block)
        starts[block + 1] = std::accumulate(counts + block * contexts, counts + (block + 1) * contexts, starts[block]);
    std::atomic<bool> sound = true;
    const std::size_t mean = starts.back() / std::max<std::size_t>(blocks, 1);
    in_ranges(blocks, 1, mean, threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t block = begin; block < end; block += abreast) {
            const auto made = [&](std::size_t k) {
                return Lane(words + offsets[block + k], words + offsets[block + k + 1],
                            counts + (block + k) * contexts, out + starts[block + k]);
            };
            if (!decode_some(std::min(abreast, end - block), search, made)) sound = false;
        }
    }, least);
    return sound;
}

bool decode_grid(const std::uint32_t* words, const Offsets& offsets, const Grid& grid, const Search& search,
                 std::int16_t* out, std::size_t threads) {
    const std::vector<std::int16_t> columns = bounded_columns(grid);
    const std::vector<std::int64_t> columns_of_scale = count_columns(columns);
    const std::size_t size = std::min(grid.extent, grid.rows) * grid.columns;
    std::atomic<bool> sound = true;
    in_ranges(grid.grouped(), 1, size, threads, [&](std::size_t begin, std::size_t end) {
        std::vector<std::int16_t> grouped(std::min(abreast, end - begin) * size);
        std::vector<std::uint8_t> contexts(grid.columns);
        std::array<std::array<std::int64_t, finest>, abreast> counts;
        for (std::size_t block = begin; block < end; block += abreast) {
            const std::size_t number = std::min(abreast, end - block);
            for (std::size_t k = 0; k < number; ++k)
                count_contexts(grid, block + k, columns_of_scale.data(), counts[k].data());
            const auto made = [&](std::size_t k) {
                return Lane(words + offsets[block + k], words + offsets[block + k + 1], counts[k].data(),
                            grouped.data() + k * size);
            };
            if (!decode_some(number, search, made)) sound = false;
            for (std::size_t k = 0; k < number; ++k) {
                const std::int16_t* const from = grouped.data() + k * size;
                walk(grid, block + k, columns, counts[k].data(), contexts.data(),
                     [&](std::size_t flat, std::size_t place) { out[flat] = from[place]; });
            }
        }
    }, least);
    return sound;
}

bool encode_grouped(const std::int16_t* integers, std::span<const std::size_t> starts, const std::int64_t* counts,
                    const std::vector<Table>& tables, std::uint32_t* words, std::size_t stride, std::int64_t* lengths,
                    std::size_t threads) {
    std::atomic<bool> coded = true;
    in_ranges(starts.size(), 1, stride, threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t block = begin; block < end; ++block) {
            lengths[block] = encode_block(integers + starts[block], counts + block * tables.size(), tables,
                                          words + block * stride);
            if (lengths[block] < 0) coded = false;
        }
    }, least);
    return coded;
}

bool encode_grid(const std::int16_t* indices, const Grid& grid, const std::vector<Table>& tables,
                 std::uint32_t* words, std::int64_t* lengths, std::size_t threads) {
    const std::vector<std::int16_t> columns = bounded_columns(grid);
    const std::vector<std::int64_t> columns_of_scale = count_columns(columns);
    const std::size_t size = std::min(grid.extent, grid.rows) * grid.columns, stride = room(size);
    std::atomic<bool> coded = true;
    in_ranges(grid.grouped(), 1, size, threads, [&](std::size_t begin, std::size_t end) {
        std::vector<std::int16_t> grouped(size);
        std::vector<std::uint8_t> contexts(grid.columns);
        std::array<std::int64_t, finest> counts;
        for (std::size_t block = begin; block < end; ++block) {
            count_contexts(grid, block, columns_of_scale.data(), counts.data());
            walk(grid, block, columns, counts.data(), contexts.data(),
                 [&](std::size_t flat, std::size_t place) { grouped[place] = indices[flat]; });
            lengths[block] = encode_block(grouped.data(), counts.data(), tables, words + block * stride);
            if (lengths[block] < 0) coded = false;
        }
    }, least);
    return coded;
}

}  // namespace octavo::ans
