// What Python sees of the entropy coder. As in binding.cpp every size and every table is checked here; a stream that no
// encoder wrote makes the decoders return false.
#include "binding_ans.hpp"

#include <nanobind/ndarray.h>

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <vector>

#include "ans.hpp"

namespace nb = nanobind;
namespace ans = octavo::ans;

namespace {

template <typename Number>
using In = nb::ndarray<const Number, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename Number>
using Out = nb::ndarray<Number, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Words = In<std::uint32_t>;
using Scales = In<std::int16_t>;
using Counts = nb::ndarray<const std::int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Indices = nb::ndarray<const std::int16_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using IndicesOut = nb::ndarray<std::int16_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Coders = nb::ndarray<std::uint64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Next = nb::ndarray<const std::uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void require(bool condition, const char* problem) {
    if (!condition) throw std::invalid_argument(problem);
}

std::size_t threads_of(std::int64_t threads) { return static_cast<std::size_t>(std::clamp<std::int64_t>(threads, 1, 256)); }

std::vector<ans::Table> tables_of(const In<std::uint32_t>& cumulative, const In<std::int64_t>& bounds,
                                  const In<std::int32_t>& lowest) {
    require(bounds.shape(0) == lowest.shape(0) + 1, "the tables' bounds do not fit their number");
    require(bounds(0) == 0 && bounds(lowest.shape(0)) == static_cast<std::int64_t>(cumulative.shape(0)),
            "the tables' bounds do not fit their sizes");
    for (std::size_t t = 0; t < lowest.shape(0); ++t) require(bounds(t) <= bounds(t + 1), "the tables' bounds descend");
    std::vector<ans::Table> tables(lowest.shape(0));
    for (std::size_t t = 0; t < tables.size(); ++t) {
        const auto entries = static_cast<std::size_t>(bounds(t + 1) - bounds(t));
        if (entries == 0) continue;
        const std::uint32_t* const first = cumulative.data() + bounds(t);
        require(entries >= 2 && first[0] == 0 && first[entries - 1] == ans::whole && std::is_sorted(first, first + entries),
                "a table does not ascend from 0 to 2^24");
        using Limits = std::numeric_limits<std::int16_t>;
        require(lowest(t) >= Limits::min() && entries <= 1 << 16 &&
                    lowest(t) + static_cast<std::int64_t>(entries) - 2 <= Limits::max(),
                "a table's integers do not fit 16 bits");
        tables[t] = {first, static_cast<std::uint32_t>(entries - 1), lowest(t)};
    }
    return tables;
}

ans::Offsets offsets_of(const Words& words, const In<std::int64_t>& lengths) {
    ans::Offsets offsets{0};
    for (std::size_t block = 0; block < lengths.shape(0); ++block) {
        const std::size_t rest = words.shape(0) - offsets.back();
        require(lengths(block) >= 0 && static_cast<std::uint64_t>(lengths(block)) <= rest, "the blocks do not fit the words");
        offsets.push_back(offsets.back() + static_cast<std::size_t>(lengths(block)));
    }
    require(offsets.back() == words.shape(0), "the blocks do not fit the words");
    return offsets;
}

// The side that blocks divide: rows for grouped blocks, columns for strips.
enum Side { by_rows, by_columns };

ans::Grid grid_of(const Scales& row_scale, const Scales& column_scale, std::int64_t width, std::int64_t extent,
                  std::size_t rows, std::size_t columns, Side divided, std::size_t blocks) {
    const std::size_t side = divided == by_rows ? rows : columns, other = divided == by_rows ? columns : rows;
    require(width == 1 || width == 2 || width == 4, "the width of a context must be 1, 2 or 4");
    require(rows >= 1 && columns >= 1 && extent >= 1, "a grid has at least one row, column and block");
    require(row_scale.shape(0) == rows && column_scale.shape(0) == columns, "the scales do not fit the indices");
    const ans::Grid grid{row_scale.data(), column_scale.data(), rows, columns, width == 4 ? 2 : static_cast<int>(width) - 1,
                         std::min(static_cast<std::size_t>(extent), side)};
    require(grid.extent <= std::numeric_limits<std::uint32_t>::max() / other, "a block is too large");
    require((side + grid.extent - 1) / grid.extent == blocks, "the number of blocks does not fit the grid");
    return grid;
}

ans::Machine machine_of(const Next& next, const In<std::uint8_t>& quantizer, const ans::Grid& grid, std::size_t tables) {
    const std::size_t states = quantizer.shape(0);
    require(states >= 1 && states <= 256 && next.shape(0) == states && next.shape(1) == 2, "the states do not fit");
    require(std::all_of(next.data(), next.data() + 2 * states, [&](std::uint8_t to) { return to < states; }),
            "a state leads to one that does not exist");
    const std::size_t quantizers = std::size_t{1} + *std::max_element(quantizer.data(), quantizer.data() + states);
    require(states > 1 || quantizers == 1, "a single state uses the first tables");
    require(tables <= 256 && tables == quantizers * grid.contexts(), "the tables do not fit the contexts");
    return {next.data(), quantizer.data(), states};
}

// Start of every block's integers; their sum must be `total`, and a block must hold no more than `most`.
std::vector<std::size_t> starts_of(const Counts& counts, std::size_t tables, std::size_t total, std::size_t& most) {
    require(counts.shape(1) == tables, "the counts do not fit the tables");
    std::vector<std::size_t> starts;
    std::size_t start = 0;
    most = 0;
    for (std::size_t block = 0; block < counts.shape(0); ++block) {
        starts.push_back(start);
        for (std::size_t context = 0; context < tables; ++context) {
            const std::int64_t count = counts(block, context);
            require(count >= 0 && static_cast<std::uint64_t>(count) <= total - start, "the counts do not fit the integers");
            start += static_cast<std::size_t>(count);
        }
        most = std::max(most, start - starts.back());
    }
    require(start == total, "the counts do not fit the integers");
    return starts;
}

bool decode_grouped(const Words& words, const In<std::int64_t>& lengths, const Counts& counts,
                    const In<std::uint32_t>& cumulative, const In<std::int64_t>& bounds, const In<std::int32_t>& lowest,
                    const Out<std::int16_t>& out, std::int64_t threads) {
    const ans::Search search(tables_of(cumulative, bounds, lowest));
    const ans::Offsets offsets = offsets_of(words, lengths);
    std::size_t most = 0;
    starts_of(counts, search.tables().size(), out.shape(0), most);
    require(counts.shape(0) == lengths.shape(0), "the counts do not fit the blocks");
    const nb::gil_scoped_release released;
    return ans::decode_grouped(words.data(), offsets, counts.data(), search, out.data(), threads_of(threads));
}

bool decode_grid(const Words& words, const In<std::int64_t>& lengths, const Scales& row_scale, const Scales& column_scale,
                 std::int64_t width, std::int64_t extent, const In<std::uint32_t>& cumulative,
                 const In<std::int64_t>& bounds, const In<std::int32_t>& lowest, const IndicesOut& out,
                 std::int64_t threads) {
    const ans::Search search(tables_of(cumulative, bounds, lowest));
    const ans::Grid grid =
        grid_of(row_scale, column_scale, width, extent, out.shape(0), out.shape(1), by_rows, lengths.shape(0));
    require(search.tables().size() == grid.contexts(), "the tables do not fit the contexts");
    const ans::Offsets offsets = offsets_of(words, lengths);
    const nb::gil_scoped_release released;
    return ans::decode_grid(words.data(), offsets, grid, search, out.data(), threads_of(threads));
}

bool decode_rows(const Words& words, const In<std::int64_t>& lengths, const Scales& row_scale, const Scales& column_scale,
                 std::int64_t width, std::int64_t extent, const Next& next, const In<std::uint8_t>& quantizer,
                 const In<std::uint32_t>& cumulative, const In<std::int64_t>& bounds, const In<std::int32_t>& lowest,
                 bool positions, const Coders& coders, const Out<std::uint8_t>& states, bool more,
                 const IndicesOut& out, std::int64_t threads) {
    const ans::Search search(tables_of(cumulative, bounds, lowest));
    const ans::Grid grid =
        grid_of(row_scale, column_scale, width, extent, out.shape(0), out.shape(1), by_columns, lengths.shape(0));
    const ans::Machine machine = machine_of(next, quantizer, grid, search.tables().size());
    const ans::Offsets offsets = offsets_of(words, lengths);
    require(coders.shape(0) == grid.strips() && coders.shape(1) == ans::lanes + 1, "the coders do not fit the blocks");
    require(states.shape(0) == grid.columns && std::all_of(states.data(), states.data() + grid.columns,
                                                           [&](std::uint8_t state) { return state < machine.states; }),
            "the columns' states do not fit the machine");
    const nb::gil_scoped_release released;
    return ans::decode_rows(words.data(), offsets, grid, machine, search, positions, coders.data(), states.data(), more,
                            out.data(), threads_of(threads));
}

void check_room(const Out<std::uint32_t>& words, const Out<std::int64_t>& lengths, std::size_t blocks, std::size_t most) {
    require(lengths.shape(0) == blocks, "the lengths do not fit the blocks");
    require(words.shape(0) == blocks * ans::room(most), "the words do not fit the blocks");
}

bool encode_grouped(const In<std::int16_t>& integers, const Counts& counts, const In<std::uint32_t>& cumulative,
                    const In<std::int64_t>& bounds, const In<std::int32_t>& lowest, const Out<std::uint32_t>& words,
                    const Out<std::int64_t>& lengths, std::int64_t threads) {
    const std::vector<ans::Table> tables = tables_of(cumulative, bounds, lowest);
    std::size_t most = 0;
    const std::vector<std::size_t> starts = starts_of(counts, tables.size(), integers.shape(0), most);
    check_room(words, lengths, starts.size(), most);
    const nb::gil_scoped_release released;
    return ans::encode_grouped(integers.data(), starts, counts.data(), tables, words.data(), ans::room(most),
                               lengths.data(), threads_of(threads));
}

bool encode_grid(const Indices& indices, const Scales& row_scale, const Scales& column_scale, std::int64_t width,
                 std::int64_t extent, const In<std::uint32_t>& cumulative, const In<std::int64_t>& bounds,
                 const In<std::int32_t>& lowest, const Out<std::uint32_t>& words, const Out<std::int64_t>& lengths,
                 std::int64_t threads) {
    const std::vector<ans::Table> tables = tables_of(cumulative, bounds, lowest);
    const ans::Grid grid =
        grid_of(row_scale, column_scale, width, extent, indices.shape(0), indices.shape(1), by_rows, lengths.shape(0));
    require(tables.size() == grid.contexts(), "the tables do not fit the contexts");
    check_room(words, lengths, grid.grouped(), grid.extent * grid.columns);
    const nb::gil_scoped_release released;
    return ans::encode_grid(indices.data(), grid, tables, words.data(), lengths.data(), threads_of(threads));
}

bool encode_rows(const Indices& indices, const Scales& row_scale, const Scales& column_scale, std::int64_t width,
                 std::int64_t extent, const Next& next, const In<std::uint8_t>& quantizer,
                 const In<std::uint32_t>& cumulative, const In<std::int64_t>& bounds, const In<std::int32_t>& lowest,
                 const Out<std::uint32_t>& words, const Out<std::int64_t>& lengths, std::int64_t threads) {
    const std::vector<ans::Table> tables = tables_of(cumulative, bounds, lowest);
    const ans::Grid grid =
        grid_of(row_scale, column_scale, width, extent, indices.shape(0), indices.shape(1), by_columns, lengths.shape(0));
    const ans::Machine machine = machine_of(next, quantizer, grid, tables.size());
    check_room(words, lengths, grid.strips(), grid.rows * grid.extent);
    const nb::gil_scoped_release released;
    return ans::encode_rows(indices.data(), grid, machine, tables, words.data(), lengths.data(), threads_of(threads));
}

auto given(const char* name) { return nb::arg(name).noconvert(); }

}  // namespace

void bind_ans(nb::module_& module) {
    module.def("ans_room", &ans::room, nb::arg("count"));
    module.def("ans_decode_grouped", &decode_grouped, given("words"), given("lengths"), given("counts"),
               given("cumulative"), given("bounds"), given("lowest"), given("out"), nb::arg("threads"));
    module.def("ans_decode_grid", &decode_grid, given("words"), given("lengths"), given("row_scale"),
               given("column_scale"), nb::arg("width"), nb::arg("extent"), given("cumulative"), given("bounds"),
               given("lowest"), given("out"), nb::arg("threads"));
    module.def("ans_decode_rows", &decode_rows, given("words"), given("lengths"), given("row_scale"),
               given("column_scale"), nb::arg("width"), nb::arg("extent"), given("next"), given("quantizer"),
               given("cumulative"), given("bounds"), given("lowest"), nb::arg("positions"), given("coders"),
               given("states"), nb::arg("more"), given("out"), nb::arg("threads"));
    module.def("ans_encode_grouped", &encode_grouped, given("integers"), given("counts"), given("cumulative"),
               given("bounds"), given("lowest"), given("words"), given("lengths"), nb::arg("threads"));
    module.def("ans_encode_grid", &encode_grid, given("indices"), given("row_scale"), given("column_scale"),
               nb::arg("width"), nb::arg("extent"), given("cumulative"), given("bounds"), given("lowest"),
               given("words"), given("lengths"), nb::arg("threads"));
    module.def("ans_encode_rows", &encode_rows, given("indices"), given("row_scale"), given("column_scale"),
               nb::arg("width"), nb::arg("extent"), given("next"), given("quantizer"), given("cumulative"),
               given("bounds"), given("lowest"), given("words"), given("lengths"), nb::arg("threads"));
}
