// What Python sees of products with packed weights. As in binding.cpp, every size is checked here, and every number that
// is an index, so that no call can read or write out of bounds.
#include "binding_product.hpp"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string_view>
#include <utility>
#include <vector>

#include "operation.hpp"
#include "product.hpp"
#include "team.hpp"

namespace nb = nanobind;

namespace {

using octavo::Factors;
using octavo::Kind;
using octavo::Layout;
using octavo::Taken;

using Bytes = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ByteMatrix = nb::ndarray<const std::uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Numbers = nb::ndarray<const std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Places = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Codes = nb::ndarray<const std::int16_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Row = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using MatrixTo = nb::ndarray<nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Table = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Cube = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Inputs = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Results = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void require(bool condition, const char* problem) {
    if (!condition) throw std::invalid_argument(problem);
}

octavo::Arithmetic arithmetic_of(std::string_view name) {
    if (name == "portable") return octavo::Arithmetic::portable;
    if (name == "avx2") return octavo::Arithmetic::avx2;
    if (name == "exact") return octavo::Arithmetic::exact;
    require(name == "int8", "arithmetic is exact, int8, avx2 or portable");
    return octavo::Arithmetic::bytes;
}

std::size_t workers(std::int64_t threads) { return static_cast<std::size_t>(std::clamp<std::int64_t>(threads, 1, 256)); }

bool narrow(nb::dlpack::dtype dtype) {
    const bool is = dtype.code == static_cast<std::uint8_t>(nb::dlpack::dtype_code::Bfloat) && dtype.bits == 16;
    require(is || dtype == nb::dtype<float>(), "values must be float32 or bfloat16");
    return is;
}

// A sum of parts, which holds on to the arrays that they read.
class Product {
public:
    Product(std::size_t rows, std::size_t columns) : rows_(rows), columns_(columns) {
        require(rows >= 1 && columns >= 1 && rows < limit && columns < limit, "a product has rows and columns");
    }
    Product(const Product&) = delete;

    void add_codes(const Bytes& packed, std::size_t row_codes, const Row& values, const Matrix& scales,
                   std::int64_t block, const std::optional<Numbers>& columns, const std::optional<Row>& factors) {
        const Taken taken = this->taken(columns, factors);
        const Layout layout(static_cast<std::int64_t>(values.shape(0)));
        require(row_codes >= taken.count && row_codes < limit, "a row has fewer codes than inputs");
        require(packed.shape(0) == layout.packed_bytes(rows_ * row_codes), "the packed codes do not fit the shape");
        const Factors spread = checked(scales, taken.count, block);
        parts_.push_back(
            octavo::codes_part(taken, packed.data(), layout, rows_, row_codes, values.data(), spread));
        keep(columns, factors, packed, values, scales);
    }

    void add_grid(const Codes& codes, const Row& points, const Row& row_step, const std::optional<Numbers>& columns,
                  const std::optional<Row>& factors) {
        const Taken taken = this->taken(columns, factors);
        require(codes.shape(0) == rows_ && codes.shape(1) == taken.count, "the grid codes do not fit the shape");
        require(row_step.shape(0) == rows_ && points.shape(0) % 2 == 1, "the steps or points do not fit the codes");
        require(points.shape(0) < limit, "there are too many points");
        parts_.push_back(octavo::grid_part(taken, codes.data(), points.data(), points.shape(0) / 2, row_step.data(),
                                           rows_));
        keep(columns, factors, codes, points, row_step);
    }

    void add_shift(const ByteMatrix& codes, const Row& table, const std::optional<Row>& curve, std::int64_t bits,
                   std::optional<std::pair<std::uint32_t, std::uint32_t>> mixer, const Matrix& scales,
                   std::int64_t block, const std::optional<Numbers>& columns, const std::optional<Row>& factors) {
        const Taken taken = this->taken(columns, factors);
        const std::size_t states = table.shape(0), knots = curve ? curve->shape(0) : 0;
        require(std::has_single_bit(states) && states <= std::size_t{1} << octavo::max_window, "the table fits no trellis");
        const auto window = static_cast<std::uint32_t>(std::bit_width(states) - 1);
        require(1 <= bits && bits <= octavo::max_shift_bits && 2 * static_cast<std::uint32_t>(bits) <= window &&
                    states >> bits >= 16,
                "a trellis has at least 16 classes of states, and the square of a code's values as states");
        require(codes.shape(0) == taken.count &&
                    codes.shape(1) >= (rows_ * static_cast<std::size_t>(bits) + 7) / 8,
                "the streams do not fit the shape");
        if (curve) {
            require(knots >= 2, "a curve has two knots");
            const float last = static_cast<float>(knots - 1);
            const auto outside = [&](float place) { return !(place >= 0 && place <= last); };
            require(std::none_of(table.data(), table.data() + states, outside), "a place lies beyond the curve");
        }
        octavo::Mixer order{};
        if (mixer) {
            order = {mixer->first, mixer->second};
            require(order.shift >= 1 && order.shift <= window && order.factor % 2 == 1, "there is no such mixer");
        }
        const Factors spread = checked(scales, taken.count, block);
        parts_.push_back(octavo::shift_part(taken, codes.data(), codes.shape(1),
                                            {window, static_cast<std::uint32_t>(bits), table.data()},
                                            curve ? curve->data() : nullptr, knots, mixer ? &order : nullptr, rows_,
                                            spread));
        keep(columns, factors, codes, table, scales);
        if (curve) keep_one(*curve);
    }

    void add_voronoi(const Bytes& packed, std::size_t row_codes, std::int64_t size, const Matrix& basis, const Row& offset,
                     const std::optional<Table>& listed, const Matrix& scales, std::int64_t block, const std::optional<Numbers>& columns,
                     const std::optional<Row>& factors) {
        const Taken taken = this->taken(columns, factors);
        const Layout layout(size);
        const std::size_t dimension = offset.shape(0);
        require(dimension == 4 || dimension == 8, "there are lattices of dimension 4 and 8");
        require(!narrow(basis.dtype()) && basis.shape(0) == dimension && basis.shape(1) == dimension, "the basis does not fit the lattice");
        require(row_codes >= taken.count && row_codes % dimension == 0 && row_codes < limit, "a row has no whole vectors");
        require(packed.shape(0) == layout.packed_bytes(rows_ * row_codes), "the packed codes do not fit the shape");
        const Factors spread = checked(scales, taken.count, block);
        if (listed) {
            require(layout.power_of_two && dimension * layout.bytes <= 16, "there are too many points to be listed");
            require(listed->shape(0) == std::size_t{1} << dimension * layout.bytes && listed->shape(1) == dimension, "the points do not fit the codes");
            keep_one(*listed);
        }
        const octavo::Voronoi code{dimension, layout.levels, static_cast<const float*>(basis.data()), offset.data(),
                                   listed ? listed->data() : nullptr};
        parts_.push_back(octavo::voronoi_part(taken, packed.data(), rows_, row_codes, code, spread));
        keep(columns, factors, packed, basis, offset, scales);
    }

    // Groups of `group` columns, the last of what is left up to whole vectors.
    void add_grouped(const Bytes& packed, std::size_t group, const Bytes& widths, const Cube& basis, const Row& companding,
                     const Matrix& scales, std::int64_t block, const std::optional<Numbers>& columns,
                     const std::optional<Row>& factors) {
        const Taken taken = this->taken(columns, factors);
        const std::size_t dimension = basis.shape(1), count = widths.shape(0);
        require(dimension == 8 || dimension == 16 || dimension == 32, "there are lattices of dimension 8, 16 and 32");
        require(basis.shape(0) == count && basis.shape(2) == dimension && companding.shape(0) == count,
                "the lattices do not fit the groups");
        require(group != 0 && group % dimension == 0 && group < limit, "a group has no whole vectors");
        const std::size_t whole = (taken.count + dimension - 1) / dimension * dimension;
        require(count == (whole + group - 1) / group, "the groups do not fit the columns");
        std::vector<octavo::LatticeGroup> groups;
        std::size_t bytes = 0;
        for (std::size_t i = 0; i < count; ++i) {
            const std::size_t own = std::min(group, whole - i * group);
            const std::uint32_t bits = widths.data()[i];
            require(1 <= bits && bits <= 8, "codes have 1 to 8 bits");
            groups.push_back({own, bits, basis.data() + i * dimension * dimension, companding.data()[i]});
            bytes += rows_ * own * bits / 8;
        }
        require(packed.shape(0) == bytes, "the packed codes do not fit the shape");
        const Factors spread = checked(scales, taken.count, block);
        parts_.push_back(octavo::grouped_part(taken, packed.data(), rows_, std::move(groups), dimension, spread));
        keep(columns, factors, packed, basis, scales);
    }

    void add_zeros(const Numbers& columns) {
        parts_.push_back(octavo::zeros_part(taken(columns, std::nullopt)));
        keep(columns, std::nullopt);
    }

    void add_sparse(const Places& starts, const Numbers& columns, const Row& values) {
        const Taken taken{nullptr, nullptr, columns_};
        require(starts.shape(0) == rows_ + 1 && starts.data()[0] == 0, "the rows of single weights do not fit");
        require(std::is_sorted(starts.data(), starts.data() + rows_ + 1), "the rows of single weights do not ascend");
        require(static_cast<std::size_t>(starts.data()[rows_]) == columns.shape(0) &&
                    values.shape(0) == columns.shape(0),
                "the single weights do not fit their rows");
        check_numbers(columns);
        parts_.push_back(octavo::sparse_part(taken, starts.data(), columns.data(), values.data(), rows_));
        keep(std::nullopt, std::nullopt, starts, columns, values);
    }

    void multiply(const Matrix& inputs, const Results& out, std::int64_t threads, const char* arithmetic) const {
        const octavo::Inputs given{inputs.data(), narrow(inputs.dtype()) ? Kind::bfloat16 : Kind::float32,
                                   inputs.shape(0), inputs.shape(1)};
        require(given.cols == columns_, "the inputs do not fit the columns");
        require(out.shape(0) == given.batch && out.shape(1) == rows_, "the output does not fit the rows");
        const octavo::Arithmetic chosen = arithmetic_of(arithmetic);
        const std::vector<octavo::Factor> matrices{{parts_, rows_, {out.data(), rows_, nullptr}}};
        const nb::gil_scoped_release released;
        octavo::multiply(matrices, given, workers(threads), chosen);
    }

    bool suits_many(const char* name) const {
        const octavo::Arithmetic arithmetic = arithmetic_of(name);
        return std::all_of(parts_.begin(), parts_.end(), [&](const auto& part) {
            return part->suits_many(part->order(Kind::float32, arithmetic));
        });
    }

    void rows_of(const Places& index, const Results& out) const {
        require(out.shape(0) == index.shape(0) && out.shape(1) == columns_, "the output does not fit the rows");
        for (std::size_t i = 0; i < index.shape(0); ++i) {
            const std::int64_t row = index.data()[i];
            require(0 <= row && static_cast<std::size_t>(row) < rows_, "there is no such row");
            octavo::read_row(parts_, static_cast<std::size_t>(row), columns_, out.data() + i * columns_);
        }
    }

    void dense(std::size_t begin, const MatrixTo& out, std::int64_t threads) const {
        require(out.shape(1) == columns_ && begin <= rows_ && out.shape(0) <= rows_ - begin,
                "the output does not fit the rows");
        const bool half = narrow(out.dtype());
        void* const to = out.data();
        const std::size_t end = begin + out.shape(0);
        const nb::gil_scoped_release released;
        octavo::read_rows(parts_, begin, end, columns_, to, half, workers(threads));
    }

    std::size_t rows() const { return rows_; }
    std::size_t columns() const { return columns_; }
    const octavo::Parts& parts() const { return parts_; }

private:
    static constexpr std::size_t limit = std::size_t{1} << 31;

    void check_numbers(const Numbers& columns) const {
        const auto outside = [&](std::int32_t column) { return column < 0 || static_cast<std::size_t>(column) >= columns_; };
        require(std::none_of(columns.data(), columns.data() + columns.shape(0), outside), "there is no such column");
    }

    Taken taken(const std::optional<Numbers>& columns, const std::optional<Row>& factors) const {
        if (columns) check_numbers(*columns);
        const std::size_t count = columns ? columns->shape(0) : columns_;
        require(count >= 1 && (!factors || factors->shape(0) == count), "the factors do not fit the columns");
        return {columns ? columns->data() : nullptr, factors ? factors->data() : nullptr, count};
    }

    Factors checked(const Matrix& scales, std::size_t count, std::int64_t block) const {
        require(block >= 1, "a block must hold at least one weight");
        const auto size = static_cast<std::size_t>(block);
        const std::size_t blocks = count / size + (count % size != 0);
        require(scales.shape(1) == blocks, "the scales do not fit the number of blocks in a row");
        require(scales.shape(0) == rows_ || scales.shape(0) == 1, "the scales do not fit the number of rows");
        return {scales.data(), narrow(scales.dtype()), blocks, size, scales.shape(0) == 1};
    }

    template <typename Array>
    void keep_one(const Array& array) {
        kept_.emplace_back(array);
    }

    template <typename... Arrays>
    void keep(const std::optional<Numbers>& columns, const std::optional<Row>& factors, const Arrays&... arrays) {
        if (columns) keep_one(*columns);
        if (factors) keep_one(*factors);
        (keep_one(arrays), ...);
    }

    const std::size_t rows_, columns_;
    octavo::Parts parts_;
    std::vector<nb::ndarray<nb::ro>> kept_;
};

// Products of the same inputs on top of each other. Whoever makes it keeps the products alive.
class BoundProducts final : public octavo::Operation {
public:
    // With `gated`, `out` has half the rows: silu of the first half of the products times the second.
    BoundProducts(const std::vector<const Product*>& products, Inputs inputs, Results out, std::optional<Row> bias,
                  const char* arithmetic, bool gated)
        : inputs_(std::move(inputs)), out_(std::move(out)), bias_(std::move(bias)), arithmetic_(arithmetic_of(arithmetic)) {
        const std::size_t rows = out_.shape(1) * (gated ? 2 : 1);
        require(inputs_.shape(0) == out_.shape(0), "the buffers of a product differ in size");
        require(!bias_ || bias_->shape(0) == rows, "the bias does not fit the rows");
        std::size_t row = 0;
        for (const Product* product : products) {
            require(inputs_.shape(1) == product->columns(), "the inputs do not fit the columns");
            require(product->rows() <= rows - row, "the output does not fit the rows");
            float* const own = gated ? nullptr : out_.data() + row;
            matrices_.push_back({product->parts(), product->rows(), {own, rows, bias_ ? bias_->data() + row : nullptr}});
            row += product->rows();
        }
        require(row == rows, "the output does not fit the rows");
        if (gated) {
            const bool alike = products.size() == 2 && products[0]->rows() == products[1]->rows();
            require(products.size() == 1 || alike, "gates want one matrix, or two alike");
            require(out_.shape(1) % octavo::tile_unit == 0, "gates want a multiple of 16 rows");
            gated_ = out_.data();
        }
        single_.emplace(matrices_, Kind::float32, 1, arithmetic_, gated_);
    }

    void run(std::int64_t rows, std::size_t threads) const override {
        require(0 <= rows && static_cast<std::size_t>(rows) <= inputs_.shape(0), "there are not so many rows");
        if (rows == 0) return;
        const octavo::Inputs given{inputs_.data(), Kind::float32, static_cast<std::size_t>(rows), inputs_.shape(1)};
        rows == 1 ? single_->run(given, threads) : octavo::multiply(matrices_, given, threads, arithmetic_, gated_);
    }

private:
    Inputs inputs_;
    Results out_;
    std::optional<Row> bias_;
    std::vector<octavo::Factor> matrices_;
    octavo::Arithmetic arithmetic_;
    float* gated_ = nullptr;
    std::optional<octavo::Multiplication> single_;  // of one row
};

// Rows of a product's matrix, whose numbers are read at each call. Whoever makes it keeps the product alive.
class Lookup final : public octavo::Operation {
public:
    Lookup(const Product& product, Places index, Results out)
        : product_(product), index_(std::move(index)), out_(std::move(out)) {
        require(index_.shape(0) == out_.shape(0) && out_.shape(1) == product.columns(), "the output does not fit the rows");
    }

    void run(std::int64_t rows, std::size_t threads) const override {
        require(0 <= rows && static_cast<std::size_t>(rows) <= out_.shape(0), "there are not so many rows");
        const auto count = static_cast<std::size_t>(rows), columns = out_.shape(1);
        const std::int64_t* const index = index_.data();
        require(std::all_of(index, index + count, [&](std::int64_t row) {
                    return 0 <= row && static_cast<std::size_t>(row) < product_.rows();
                }), "there is no such row");
        // A weight takes as long as some multiplications.
        octavo::in_team_ranges(count, 1, 4 * columns, threads, [&](std::size_t begin, std::size_t end) {
            for (std::size_t i = begin; i < end; ++i)
                octavo::read_row(product_.parts(), static_cast<std::size_t>(index[i]), columns, out_.data() + i * columns);
        });
    }

private:
    const Product& product_;
    Places index_;
    Results out_;
};

auto given(const char* name) { return nb::arg(name).noconvert(); }

}  // namespace

void bind_product(nb::module_& module) {
    nb::class_<Product>(module, "Product")
        .def(nb::init<std::size_t, std::size_t>(), nb::arg("rows"), nb::arg("columns"))
        .def("add_codes", &Product::add_codes, given("packed"), nb::arg("row_codes"), given("values"), given("scales"),
             nb::arg("block"), given("columns").none(), given("factors").none())
        .def("add_grid", &Product::add_grid, given("codes"), given("points"), given("row_step"),
             given("columns").none(), given("factors").none())
        .def("add_shift", &Product::add_shift, given("codes"), given("table"), given("curve").none(), nb::arg("bits"),
             nb::arg("mixer").none(), given("scales"), nb::arg("block"), given("columns").none(), given("factors").none())
        .def("add_voronoi", &Product::add_voronoi, given("packed"), nb::arg("row_codes"), nb::arg("size"), given("basis"),
             given("offset"), given("listed").none(), given("scales"), nb::arg("block"), given("columns").none(), given("factors").none())
        .def("add_grouped", &Product::add_grouped, given("packed"), nb::arg("group"), given("widths"), given("basis"),
             given("companding"), given("scales"), nb::arg("block"), given("columns").none(), given("factors").none())
        .def("add_zeros", &Product::add_zeros, given("columns"))
        .def("add_sparse", &Product::add_sparse, given("starts"), given("columns"), given("values"))
        .def_prop_ro("columns", &Product::columns)
        .def("suits_many", &Product::suits_many, nb::arg("arithmetic"))
        .def("rows", &Product::rows_of, given("index"), given("out"))
        .def("dense", &Product::dense, nb::arg("begin"), given("out"), nb::arg("threads"))
        .def("multiply", &Product::multiply, given("inputs"), given("out"), nb::arg("threads"),
             nb::arg("arithmetic"));
    nb::class_<BoundProducts, octavo::Operation>(module, "BoundProducts")
        .def(nb::init<const std::vector<const Product*>&, Inputs, Results, std::optional<Row>, const char*, bool>(),
             nb::keep_alive<1, 2>(), nb::arg("products"), given("inputs"), given("out"), given("bias").none(),
             nb::arg("arithmetic"), nb::arg("gated") = false);
    nb::class_<Lookup, octavo::Operation>(module, "Lookup")
        .def(nb::init<const Product&, Places, Results>(), nb::keep_alive<1, 2>(), nb::arg("product"), given("index"),
             given("out"));
}
