// What Python sees. Every size is checked here against every buffer, so that no call can read or write out of bounds.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <stdexcept>
#include <string>

#include "binding_ans.hpp"
#include "binding_column_codes.hpp"
#include "binding_decoding.hpp"
#include "binding_operation.hpp"
#include "binding_product.hpp"
#include "codebook.hpp"
#include "layout.hpp"
#include "loops.hpp"
#include "reading.hpp"
#include "separable.hpp"
#include "shift_trellis.hpp"
#include "threads.hpp"
#include "trellis.hpp"

namespace nb = nanobind;

namespace {

using octavo::Kind;
using octavo::Layout;
using octavo::Scales;
using octavo::Shape;

using Bytes = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using BytesOut = nb::ndarray<std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Numbers = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Row = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Table = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using MatrixOut = nb::ndarray<nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void require(bool condition, const char* problem) {
    if (!condition) throw std::invalid_argument(problem);
}

Kind kind_of(nb::dlpack::dtype dtype) {
    const auto is = [&](nb::dlpack::dtype_code code, int bits) {
        return dtype.code == static_cast<std::uint8_t>(code) && dtype.bits == bits && dtype.lanes == 1;
    };
    if (is(nb::dlpack::dtype_code::Float, 32)) return Kind::float32;
    if (is(nb::dlpack::dtype_code::Float, 16)) return Kind::float16;
    if (is(nb::dlpack::dtype_code::Bfloat, 16)) return Kind::bfloat16;
    throw std::invalid_argument("values must be float32, bfloat16 or float16");
}

Scales checked(const Table& scales, const Shape& shape, std::int64_t block) {
    require(block >= 1, "a block must hold at least one weight");
    const auto size = static_cast<std::size_t>(block);
    const std::size_t blocks = shape.cols / size + (shape.cols % size != 0);
    require(scales.shape(1) == blocks, "the scales do not fit the number of blocks in a row");
    require(scales.shape(0) == shape.rows || scales.shape(0) == 1, "the scales do not fit the number of rows");
    return {scales.data(), blocks, size, scales.shape(0) == 1 && shape.rows != 1};
}

std::size_t threads_of(std::int64_t threads) { return static_cast<std::size_t>(std::clamp<std::int64_t>(threads, 1, 256)); }

void pack(const Bytes& codes, std::int64_t levels, const BytesOut& out, std::int64_t threads) {
    const Layout layout(levels);
    const std::size_t count = codes.shape(0);
    require(out.shape(0) == layout.packed_bytes(count), "the output does not fit the packed codes");
    const std::uint8_t* in = codes.data();
    std::uint8_t* to = out.data();
    std::atomic<bool> within = true;
    {
        const nb::gil_scoped_release released;
        octavo::in_ranges(count, layout.digits, 1, threads_of(threads), [&](std::size_t begin, std::size_t end) {
            std::uint8_t staged[2048 + octavo::max_digits];
            const std::size_t stretch = 2048 / layout.digits * layout.digits;
            for (std::size_t start = begin; start < end; start += stretch) {
                const std::size_t filled = std::min(stretch, end - start);
                std::copy(in + start, in + start + filled, staged);
                if (*std::max_element(staged, staged + filled) >= layout.levels) within = false;
                octavo::pack_codes(layout, staged, filled, to + start / layout.digits * layout.bytes);
            }
        });
    }
    require(within, "a code is not below the number of levels");
}

void unpack(const Bytes& packed, std::int64_t levels, const BytesOut& out, std::int64_t threads) {
    const Layout layout(levels);
    const std::size_t count = out.shape(0);
    require(packed.shape(0) == layout.packed_bytes(count), "the packed codes do not fit their number");
    const std::uint8_t* in = packed.data();
    std::uint8_t* to = out.data();
    const nb::gil_scoped_release released;
    octavo::in_ranges(count, layout.digits, 1, threads_of(threads), [&](std::size_t begin, std::size_t end) {
        std::uint8_t staged[2048 + octavo::max_digits];
        const std::size_t stretch = 2048 / layout.digits * layout.digits;
        for (std::size_t start = begin; start < end; start += stretch) {
            const std::size_t filled = std::min(stretch, end - start);
            octavo::unpack_codes(layout, in + start / layout.digits * layout.bytes, filled, staged);
            std::copy(staged, staged + filled, to + start);
        }
    });
}

void quantize_pack(const Matrix& weights, const Table& scales, const Row& midpoints, std::int64_t block,
                   std::int64_t levels, const BytesOut& out, std::int64_t threads, bool portable) {
    const Layout layout(levels);
    const Shape shape{weights.shape(0), weights.shape(1)};
    const Kind kind = kind_of(weights.dtype());
    const Scales spread = checked(scales, shape, block);
    require(midpoints.shape(0) >= 1 && midpoints.shape(0) < layout.levels, "the codes do not fit the alphabet");
    require(out.shape(0) == layout.packed_bytes(shape.rows * shape.cols), "the output does not fit the packed codes");
    const void* in = weights.data();
    const nb::gil_scoped_release released;
    if (shape.rows * shape.cols == 0) return;
    octavo::quantize_pack(octavo::choose_loops(portable), layout, in, kind, shape, spread, midpoints.data(),
                          midpoints.shape(0), out.data(), threads_of(threads));
}

void unpack_dequantize(const Bytes& packed, const Table& scales, const Row& codebook, std::int64_t block,
                       const MatrixOut& out, std::int64_t threads, bool portable) {
    const Layout layout(static_cast<std::int64_t>(codebook.shape(0)));
    const Shape shape{out.shape(0), out.shape(1)};
    const Kind kind = kind_of(out.dtype());
    require(kind != Kind::float16, "values are written as float32 or bfloat16");
    const Scales spread = checked(scales, shape, block);
    require(packed.shape(0) == layout.packed_bytes(shape.rows * shape.cols), "the packed codes do not fit the shape");
    void* to = out.data();
    const nb::gil_scoped_release released;
    if (shape.rows * shape.cols == 0) return;
    octavo::unpack_dequantize(octavo::choose_loops(portable), layout, packed.data(), shape, spread, codebook.data(),
                              to, kind, threads_of(threads));
}

void separable_dequantize(const Matrix& codes, const Row& row_step, const Row& column_step,
                          const std::optional<Row>& points, const MatrixOut& out, std::int64_t threads,
                          bool portable) {
    const Shape shape{codes.shape(0), codes.shape(1)};
    const bool wide = codes.dtype() == nb::dtype<std::int16_t>();
    require(wide || codes.dtype() == nb::dtype<std::int8_t>(), "grid codes must be int8 or int16");
    require(row_step.shape(0) == shape.rows && column_step.shape(0) == shape.cols, "the steps do not fit the codes");
    require(out.shape(0) == shape.rows && out.shape(1) == shape.cols, "the output does not fit the codes");
    require(!points || points->shape(0) % 2 == 1, "the number of reconstruction points must be odd");
    const Kind kind = kind_of(out.dtype());
    require(kind != Kind::float16, "values are written as float32 or bfloat16");
    const float* table = points ? points->data() : nullptr;
    const std::size_t half = points ? points->shape(0) / 2 : 0;
    const void* in = codes.data();
    void* to = out.data();
    const nb::gil_scoped_release released;
    octavo::separable_dequantize(octavo::choose_loops(portable), in, wide, shape, row_step.data(), column_step.data(),
                                 table, half, to, kind, threads_of(threads));
}

using Weights = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using ByteMatrix = nb::ndarray<const std::uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Costs = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Indices = nb::ndarray<std::int16_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

octavo::Trellis trellis_of(std::int64_t states, std::int64_t h0, std::int64_t h1) {
    require(4 <= states && states <= 64 && (states & (states - 1)) == 0, "a trellis has 4, 8, 16, 32 or 64 states");
    require(states / 2 <= h0 && h0 < states && 0 <= h1 && h1 < states / 2, "the polynomials do not fit the states");
    return {static_cast<std::uint32_t>(states), static_cast<std::uint32_t>(h0), static_cast<std::uint32_t>(h1)};
}

void trellis_indices(const Weights& scaled, const ByteMatrix& context, const Costs& cost, std::int64_t states,
                     std::int64_t h0, std::int64_t h1, const Indices& out, std::int64_t threads, bool portable) {
    const octavo::Trellis trellis = trellis_of(states, h0, h1);
    const Shape shape{scaled.shape(0), scaled.shape(1)};
    require(context.shape(0) == shape.rows && context.shape(1) == shape.cols, "the contexts do not fit the weights");
    require(out.shape(0) == shape.rows && out.shape(1) == shape.cols, "the output does not fit the weights");
    require(cost.shape(0) == 2 && 2 <= cost.shape(2) && cost.shape(2) <= 16384, "the costs do not fit two quantizers");
    const std::size_t contexts = cost.shape(1);
    const float* in = scaled.data();
    const std::uint8_t* where = context.data();
    const octavo::IndexCosts costs{cost.data(), contexts, cost.shape(2)};
    bool within = true;
    {
        const nb::gil_scoped_release released;
        const std::size_t count = shape.rows * shape.cols;
        for (std::size_t i = 0; i < count; ++i) within &= where[i] < contexts;
        if (within && count != 0)
            octavo::trellis_indices(octavo::choose_loops(portable), trellis, in, where, shape, costs, out.data(),
                                    threads_of(threads));
    }
    require(within, "a context has no costs");
}

void trellis_decode(const Matrix& indices, std::int64_t states, std::int64_t h0, std::int64_t h1,
                    const MatrixOut& out, std::int64_t threads, bool portable) {
    const octavo::Trellis trellis = trellis_of(states, h0, h1);
    const Shape shape{indices.shape(0), indices.shape(1)};
    const bool wide = indices.dtype() == nb::dtype<std::int16_t>();
    require(wide || indices.dtype() == nb::dtype<std::int8_t>(), "trellis indices must be int8 or int16");
    require(out.shape(0) == shape.rows && out.shape(1) == shape.cols, "the output does not fit the indices");
    const bool values = out.dtype() == nb::dtype<std::int16_t>();
    require(values || out.dtype() == nb::dtype<std::uint8_t>(), "values are int16, quantizers uint8");
    const void* in = indices.data();
    void* to = out.data();
    const nb::gil_scoped_release released;
    octavo::trellis_decode(octavo::choose_loops(portable), trellis, in, wide, shape,
                           values ? static_cast<std::int16_t*>(to) : nullptr,
                           values ? nullptr : static_cast<std::uint8_t*>(to), threads_of(threads));
}

octavo::ShiftTrellis shift_trellis_of(const Row& table, std::int64_t bits) {
    const std::size_t states = table.shape(0);
    require(std::has_single_bit(states) && states <= std::size_t{1} << octavo::max_window, "the table fits no trellis");
    const auto window = static_cast<std::uint32_t>(std::bit_width(states) - 1);
    require(1 <= bits && bits <= octavo::max_shift_bits && 2 * static_cast<std::uint32_t>(bits) <= window &&
                states >> bits >= 16,
            "a trellis has at least 16 classes of states, and the square of a code's values as states");
    return {window, static_cast<std::uint32_t>(bits), table.data()};
}

// So many bytes hold every row, and offsets in bits do not overflow.
bool holds(std::size_t bytes, std::size_t rows, std::uint32_t bits) {
    return rows < std::size_t{1} << 58 && bytes >= (rows * bits + 7) / 8;
}

void shift_encode(const Weights& scaled, const Row& table, std::int64_t bits, const MatrixOut& out,
                  std::int64_t threads, bool portable) {
    const octavo::ShiftTrellis trellis = shift_trellis_of(table, bits);
    const Shape shape{scaled.shape(0), scaled.shape(1)};
    require(out.dtype() == nb::dtype<std::uint8_t>() && out.shape(0) == shape.cols &&
                holds(out.shape(1), shape.rows, trellis.bits),
            "the output does not fit the streams");
    const float* in = scaled.data();
    auto* to = static_cast<std::uint8_t*>(out.data());
    const nb::gil_scoped_release released;
    octavo::shift_encode(octavo::choose_loops(portable), trellis, in, shape, to, out.shape(1), threads_of(threads));
}

void shift_decode(const ByteMatrix& codes, const Row& table, std::int64_t bits, const Table& scales,
                  std::int64_t block, const Row& column, const MatrixOut& out, std::int64_t threads, bool portable) {
    const octavo::ShiftTrellis trellis = shift_trellis_of(table, bits);
    const Shape shape{out.shape(0), out.shape(1)};
    require(codes.shape(0) == shape.cols && holds(codes.shape(1), shape.rows, trellis.bits),
            "the streams do not fit the output");
    require(out.dtype() == nb::dtype<float>() && column.shape(0) == shape.cols, "the scales do not fit the output");
    const Scales spread = checked(scales, shape, block);
    const std::uint8_t* in = codes.data();
    auto* to = static_cast<float*>(out.data());
    const nb::gil_scoped_release released;
    if (shape.rows * shape.cols == 0) return;
    octavo::shift_decode(octavo::choose_loops(portable), trellis, in, codes.shape(1), shape, spread, column.data(), to,
                         threads_of(threads));
}

// An argument taken as it is: a silently converted copy of an output would lose what is written to it.
auto given(const char* name) { return nb::arg(name).noconvert(); }

}  // namespace

NB_MODULE(_native, module) {
    module.doc() = "Packing, quantizing and dequantizing on a CPU; see octavo.kernels.cpu.";
    bind_ans(module);
    bind_column_codes(module);
    bind_operation(module);
    bind_decoding(module);
    bind_product(module);
    module.def("instruction_set", [] { return octavo::choose_loops(false).name; });
    module.def("sum_of_memory", [](const Numbers& numbers, std::int64_t threads) {
        const auto* const from = reinterpret_cast<const std::uint64_t*>(numbers.data());
        const nb::gil_scoped_release released;
        return octavo::sum_of_memory(from, numbers.shape(0), threads_of(threads));
    }, given("numbers"), nb::arg("threads"));
    module.def("packed_bytes", [](std::size_t count, std::int64_t levels) { return Layout(levels).packed_bytes(count); });
    module.def("pack", &pack, given("codes"), nb::arg("levels"), given("out"), nb::arg("threads"));
    module.def("unpack", &unpack, given("packed"), nb::arg("levels"), given("out"), nb::arg("threads"));
    module.def("quantize_pack", &quantize_pack, given("weights"), given("scales"), given("midpoints"),
               nb::arg("block"), nb::arg("levels"), given("out"), nb::arg("threads"), nb::arg("portable") = false);
    module.def("unpack_dequantize", &unpack_dequantize, given("packed"), given("scales"), given("codebook"),
               nb::arg("block"), given("out"), nb::arg("threads"), nb::arg("portable") = false);
    module.def("separable_dequantize", &separable_dequantize, given("codes"), given("row_step"),
               given("column_step"), given("points").none(), given("out"), nb::arg("threads"),
               nb::arg("portable") = false);
    module.def("trellis_indices", &trellis_indices, given("scaled"), given("context"), given("cost"),
               nb::arg("states"), nb::arg("h0"), nb::arg("h1"), given("out"), nb::arg("threads"),
               nb::arg("portable") = false);
    module.def("trellis_decode", &trellis_decode, given("indices"), nb::arg("states"), nb::arg("h0"), nb::arg("h1"),
               given("out"), nb::arg("threads"), nb::arg("portable") = false);
    module.def("shift_encode", &shift_encode, given("scaled"), given("table"), nb::arg("bits"), given("out"),
               nb::arg("threads"), nb::arg("portable") = false);
    module.def("shift_decode", &shift_decode, given("codes"), given("table"), nb::arg("bits"), given("scales"),
               nb::arg("block"), given("column"), given("out"), nb::arg("threads"), nb::arg("portable") = false);
}
