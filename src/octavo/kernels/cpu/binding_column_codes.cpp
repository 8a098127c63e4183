// What Python sees of codes in columns of unequal width. As in binding.cpp every size is checked here.
#include "binding_column_codes.hpp"

#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "column_codes.hpp"

namespace nb = nanobind;

namespace {

template <typename Number>
using Row = nb::ndarray<Number, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename Number>
using Matrix = nb::ndarray<Number, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Codes = Matrix<const std::int16_t>;
using Group = std::tuple<std::size_t, std::size_t, Matrix<std::uint8_t>>;

void require(bool condition, const char* problem) {
    if (!condition) throw std::invalid_argument(problem);
}

std::size_t threads_of(std::int64_t threads) { return static_cast<std::size_t>(std::clamp<std::int64_t>(threads, 1, 256)); }

void count_widths(const Codes& codes, const Matrix<std::int64_t>& counts, std::int64_t threads) {
    require(counts.shape(0) == codes.shape(1) && counts.shape(1) == octavo::column_width_count, "the counts do not fit the codes");
    const nb::gil_scoped_release released;
    octavo::count_widths(codes.data(), {codes.shape(0), codes.shape(1)}, counts.data(), threads_of(threads));
}

bool pack_columns(const Codes& codes, const Row<const std::int32_t>& order, const std::vector<Group>& groups,
                  const Row<std::int32_t>& far_row, const Row<std::int32_t>& far_column, const Row<std::int16_t>& far_code,
                  std::int64_t threads) {
    const std::size_t rows = codes.shape(0), columns = codes.shape(1);
    require(std::max(rows, columns) <= std::numeric_limits<std::int32_t>::max(), "the matrix is too large");
    require(order.shape(0) == columns, "the order does not fit the codes");
    require(std::all_of(order.data(), order.data() + columns,
                        [&](std::int32_t column) { return column >= 0 && static_cast<std::size_t>(column) < columns; }),
            "there is no such column");
    const auto& widths = octavo::column_widths;
    std::vector<octavo::ColumnGroup> packed;
    std::size_t left = columns;
    for (const auto& [width, count, out] : groups) {
        require(std::find(std::begin(widths), std::end(widths), width) != std::end(widths), "no column is of such a width");
        require(count <= left, "the groups do not fit the columns");
        const std::size_t bytes = width == 16 ? 2 * count : (count + 7) / 8 * width;
        require(out.shape(0) == rows && out.shape(1) == bytes, "the output does not fit a group");
        packed.push_back({static_cast<int>(width), count, out.data(), bytes});
        left -= count;
    }
    require(left == 0, "the groups do not fit the columns");
    require(far_column.shape(0) == far_row.shape(0) && far_code.shape(0) == far_row.shape(0), "the codes apart do not fit");
    const octavo::FarCodes far{far_row.data(), far_column.data(), far_code.data(), far_row.shape(0)};
    const nb::gil_scoped_release released;
    return octavo::pack_columns(codes.data(), {rows, columns}, order.data(), packed, far, threads_of(threads));
}

auto given(const char* name) { return nb::arg(name).noconvert(); }

}  // namespace

void bind_column_codes(nb::module_& module) {
    module.def("count_widths", &count_widths, given("codes"), given("counts"), nb::arg("threads"));
    module.def("pack_columns", &pack_columns, given("codes"), given("order"), nb::arg("groups"),
               given("far_row"), given("far_column"), given("far_code"), nb::arg("threads"));
}
