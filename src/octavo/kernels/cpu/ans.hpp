// Decoding and encoding of ANS streams; see octavo.kernels.entropy for what the streams are.
//
// The coder: a state of 64 bits, words of 32 bits, probabilities of 24 bits. Nothing here trusts a stream: a decoder
// stops reading where its words end, and says at the end whether it has met what an encoder leaves.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace octavo::ans {

constexpr int precision = 24;
constexpr std::uint32_t whole = 1u << precision;

// A state below this takes in another word.
constexpr std::uint64_t least_state = std::uint64_t{1} << 32;

// The first look at a quantile uses this many of its bits.
constexpr int cell_bits = 10;
constexpr std::size_t cells = std::size_t{1} << cell_bits;

// Contexts at the finest width (octavo.formats.coding.scale_context).
constexpr int finest = 48;

// A frequency table: `size` symbols, symbol k having the quantiles [cumulative[k], cumulative[k + 1]) and standing for
// the integer `lowest` + k. An absent table has size 0.
struct Table {
    const std::uint32_t* cumulative = nullptr;
    std::uint32_t size = 0;
    std::int32_t lowest = 0;
};

// Tables and, for each, the symbol at which the search for a quantile with the same leading bits begins.
class Search {
  public:
    explicit Search(std::vector<Table> tables);

    const std::vector<Table>& tables() const { return tables_; }
    const std::uint16_t* first(std::size_t table) const { return first_.data() + table * cells; }

  private:
    std::vector<Table> tables_;
    std::vector<std::uint16_t> first_;
};

// Rows and columns of a grid, and the scales whose sums are the contexts of its weights.
struct Grid {
    const std::int16_t* row_scale;
    const std::int16_t* column_scale;
    std::size_t rows, columns;
    int shift;           // log2 of the width of a context
    std::size_t extent;  // rows of a grouped block, columns of a strip

    std::size_t contexts() const { return static_cast<std::size_t>(finest) >> shift; }
    std::size_t grouped() const { return (rows + extent - 1) / extent; }
    std::size_t strips() const { return (columns + extent - 1) / extent; }
};

// A machine that walks down a column: the table of a weight is that of its context within the set quantizer[state],
// and an index moves the state to next[2 * state + parity]. It starts from state 0 at the top.
struct Machine {
    const std::uint8_t* next;
    const std::uint8_t* quantizer;
    std::size_t states;
};

// Where the words of each block begin; one entry more than blocks.
using Offsets = std::vector<std::size_t>;

// Each returns whether every block was one that an encoder writes; out then holds its integers.

// Integers by context: counts[block * tables + context] of each, one block after the other.
bool decode_grouped(const std::uint32_t* words, const Offsets& offsets, const std::int64_t* counts,
                    const Search& search, std::int16_t* out, std::size_t threads);

// A grid's indices, grouped by context in each block.
bool decode_grid(const std::uint32_t* words, const Offsets& offsets, const Grid& grid, const Search& search,
                 std::int16_t* out, std::size_t threads);

// A grid's indices in strips of columns, each row by row, from `lanes` interleaved coders; or their positions, index ±k
// of quantizer q being at ±(2k - q) and 0 at 0. Rows may be those after some others, and before `more`: each strip has
// in `coders` the states of its coders and how many words they have taken, each column in `states` one of the machine.
bool decode_rows(const std::uint32_t* words, const Offsets& offsets, const Grid& grid, const Machine& machine,
                 const Search& search, bool positions, std::uint64_t* coders, std::uint8_t* states, bool more,
                 std::int16_t* out, std::size_t threads);

// Columns j, j + lanes, … of a strip belong to one coder of those that share its words.
constexpr std::size_t lanes = 4;
constexpr std::size_t head = 2 * lanes;

// Room for the words of a block of `count` integers, none of which takes more than 24 bits.
constexpr std::size_t room(std::size_t count) { return (count * 3 + 3) / 4 + head; }

// The encoders write each block at a multiple of its room (of the first block's count) and note its length in words.
// They return false where an integer is not in its table.
bool encode_grouped(const std::int16_t* integers, std::span<const std::size_t> starts, const std::int64_t* counts,
                    const std::vector<Table>& tables, std::uint32_t* words, std::size_t stride, std::int64_t* lengths,
                    std::size_t threads);
bool encode_grid(const std::int16_t* indices, const Grid& grid, const std::vector<Table>& tables,
                 std::uint32_t* words, std::int64_t* lengths, std::size_t threads);
bool encode_rows(const std::int16_t* indices, const Grid& grid, const Machine& machine,
                 const std::vector<Table>& tables, std::uint32_t* words, std::int64_t* lengths, std::size_t threads);

}  // namespace octavo::ans
