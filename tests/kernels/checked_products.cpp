// Runs products of every kind of part on guarded arrays. Compares with plain sums.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "guarded.hpp"
#include "product.hpp"

namespace {

std::mt19937 draws(0);

float* normal(std::size_t count) {
    std::normal_distribution<float> law;
    float* found = guarded<float>(count);
    for (std::size_t i = 0; i < count; ++i) found[i] = law(draws);
    return found;
}

std::uint8_t* bytes(std::size_t count) {
    std::uint8_t* found = guarded<std::uint8_t>(count);
    for (std::size_t i = 0; i < count; ++i) found[i] = static_cast<std::uint8_t>(draws());
    return found;
}

std::uint16_t* narrowed(const float* values, std::size_t count) {
    std::uint16_t* found = guarded<std::uint16_t>(count);
    for (std::size_t i = 0; i < count; ++i) {
        std::uint32_t bits;
        std::memcpy(&bits, values + i, 4);
        found[i] = static_cast<std::uint16_t>(bits >> 16);
    }
    return found;
}

// Values that bfloat16 has, or others.
const float* values_of(std::size_t levels, bool narrow) {
    float* found = normal(levels);
    if (narrow)
        for (std::size_t i = 0; i < levels; ++i) found[i] = static_cast<float>(static_cast<int>(64 * found[i]));
    return found;
}

[[noreturn]] void fail(const char* what, double found, double expected) {
    std::printf("%s is %g, not %g\n", what, found, expected);
    std::exit(1);
}

float narrow_value(std::uint16_t narrow) {
    const std::uint32_t bits = std::uint32_t{narrow} << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

struct Problem {
    octavo::Parts parts;
    std::size_t rows, columns;
};

// Gates of both halves of products that are known.
void check_gates(const Problem& problem, const octavo::Inputs& inputs, std::size_t threads, octavo::Arithmetic arithmetic,
                 const float* products) {
    const std::size_t half = problem.rows / 2;
    float* const found = guarded<float>(inputs.batch * half);
    octavo::multiply({{problem.parts, problem.rows, {nullptr, problem.rows, nullptr}}}, inputs, threads, arithmetic, found);
    for (std::size_t i = 0; i < inputs.batch * half; ++i) {
        const float *own = products + i / half * problem.rows + i % half, x = own[0], up = own[half];
        const float expected = x / (1 + std::exp(-x)) * up;
        if (!(std::fabs(found[i] - expected) <= 1e-3f * (10 + std::fabs(expected) + std::fabs(up)))) fail("a gate", found[i], expected);
    }
}

// Products of both kinds of inputs, alone and in a team, are those of the portable loops, and of rows as they are read;
// in bytes, they are near them.
void check(const Problem& problem, std::size_t batch) {
    const std::size_t results = batch * problem.rows;
    const float* wide = normal(batch * problem.columns);
    const std::uint16_t* narrow = narrowed(wide, batch * problem.columns);
    for (const bool half : {false, true}) {
        const octavo::Inputs inputs{half ? static_cast<const void*>(narrow) : wide,
                                    half ? octavo::Kind::bfloat16 : octavo::Kind::float32, batch, problem.columns};
        float *plain = guarded<float>(results), *fast = guarded<float>(results);
        octavo::multiply({{problem.parts, problem.rows, {plain, problem.rows, nullptr}}}, inputs, 1, octavo::Arithmetic::portable);
        octavo::multiply({{problem.parts, problem.rows, {fast, problem.rows, nullptr}}}, inputs, 2, octavo::Arithmetic::bytes);
        double error = 0, size = 1e-6;
        for (std::size_t i = 0; i < results; ++i) {
            error += (fast[i] - plain[i]) * static_cast<double>(fast[i] - plain[i]);
            size += plain[i] * static_cast<double>(plain[i]);
        }
        if (!(error <= 0.04 * 0.04 * size)) fail("bytes", std::sqrt(error / size), 0);
        float* row = guarded<float>(problem.columns);
        for (std::size_t r = 0; r < problem.rows; ++r) {
            octavo::read_row(problem.parts, r, problem.columns, row);
            double sum = 0, sizes = 10;
            for (std::size_t i = 0; i < problem.columns; ++i) {
                const double term = row[i] * static_cast<double>(half ? narrow_value(narrow[i]) : wide[i]);
                sum += term, sizes += std::fabs(term);
            }
            if (!(std::fabs(plain[r] - sum) <= 1e-4 * sizes)) fail("a row", plain[r], sum);
        }
        for (const octavo::Arithmetic arithmetic : {octavo::Arithmetic::exact, octavo::Arithmetic::avx2})
            for (const std::size_t threads : {1, 3}) {
                octavo::multiply({{problem.parts, problem.rows, {fast, problem.rows, nullptr}}}, inputs, threads, arithmetic);
                for (std::size_t i = 0; i < results; ++i)
                    if (!(std::fabs(plain[i] - fast[i]) <= 1e-4f * (10 + std::fabs(plain[i])))) fail("an output", fast[i], plain[i]);
                if (problem.rows % (2 * octavo::tile_unit) == 0) check_gates(problem, inputs, threads, arithmetic, plain);
            }
    }
}

void codes(std::int64_t levels, std::size_t rows, std::size_t columns, std::size_t block, std::size_t batch) {
    const octavo::Layout layout(levels);
    const std::size_t blocks = (columns + block - 1) / block;
    const float* scales = normal(rows * blocks);
    const std::uint16_t* narrow = narrowed(scales, rows * blocks);
    for (const bool half : {false, true}) {
        Problem problem{{}, rows, columns};
        problem.parts.push_back(octavo::codes_part({nullptr, nullptr, columns}, bytes(layout.packed_bytes(rows * columns)),
                                                   layout, rows, columns, values_of(static_cast<std::size_t>(levels), half),
                                                   {half ? static_cast<const void*>(narrow) : scales, half, blocks,
                                                    block, false}));
        check(problem, batch);
    }
}

void shift(std::uint32_t bits, std::size_t rows, std::size_t columns, std::size_t block, std::size_t batch) {
    const std::size_t stream = (rows * bits + 7) / 8, blocks = (columns + block - 1) / block, states = 4096;
    float* places = guarded<float>(states);
    for (std::size_t i = 0; i < states; ++i) places[i] = static_cast<float>(draws() % 17);
    Problem problem{{}, rows, columns};
    const octavo::Factors scales{normal(rows * blocks), false, blocks, block, false};
    problem.parts.push_back(octavo::shift_part({nullptr, normal(columns), columns}, bytes(columns * stream), stream,
                                               {12, bits, places}, normal(17), 17, nullptr, rows, scales));
    check(problem, batch);
    // The order that a mixer gives, of a curve that rises.
    constexpr std::uint32_t factor = 1693, constant = 640;
    float* ranks = guarded<float>(states);
    for (const std::uint32_t shift : {8u, 12u}) {
        for (std::uint32_t state = 0; state < states; ++state)
            ranks[state] = static_cast<float>((factor * (state ^ (state >> shift)) + constant) % states) / states - 0.5f;
        const octavo::Mixer mixer{shift, factor};
        Problem mixed{{}, rows, columns};
        mixed.parts.push_back(octavo::shift_part({nullptr, nullptr, columns}, bytes(columns * stream), stream,
                                                 {12, bits, ranks}, nullptr, 0, &mixer, rows, scales));
        check(mixed, batch);
    }
}

void mixed(std::size_t rows, std::size_t columns, std::size_t batch) {
    Problem problem{{}, rows, columns};
    auto* numbers = guarded<std::int32_t>(columns);
    auto* wide = guarded<std::int16_t>(rows * columns);
    auto* starts = guarded<std::int64_t>(rows + 1);
    for (std::size_t i = 0; i < columns; ++i) numbers[i] = static_cast<std::int32_t>(draws() % columns);
    for (std::size_t i = 0; i < rows * columns; ++i) wide[i] = static_cast<std::int16_t>(draws() % 600 - 300);
    for (std::size_t i = 0; i <= rows; ++i) starts[i] = static_cast<std::int64_t>(i * columns / rows);
    problem.parts.push_back(octavo::grid_part({numbers, normal(columns), columns}, wide, normal(3), 1, normal(rows), rows));
    problem.parts.push_back(octavo::zeros_part({numbers, nullptr, columns}));
    problem.parts.push_back(octavo::sparse_part({nullptr, nullptr, columns}, starts, numbers, normal(columns), rows));
    // Parts of all kinds share the tiles.
    const octavo::Layout layout(16);
    const std::size_t padded = (columns + 1) / 2 * 2, stream = (rows * 3 + 7) / 8;
    const octavo::Factors scales{normal(rows), false, 1, columns, false};
    problem.parts.push_back(octavo::codes_part({numbers, normal(columns), columns},
                                               bytes(layout.packed_bytes(rows * padded)), layout, rows, padded,
                                               normal(16), scales));
    problem.parts.push_back(octavo::shift_part({nullptr, nullptr, columns}, bytes(columns * stream), stream,
                                               {10, 3, normal(1024)}, nullptr, 0, nullptr, rows, scales));
    for (const std::size_t dimension : {4, 8}) {
        const std::size_t whole = (columns + dimension - 1) / dimension * dimension;
        const octavo::Voronoi code{dimension, 5, normal(dimension * dimension), normal(dimension), nullptr};
        problem.parts.push_back(octavo::voronoi_part({nullptr, nullptr, columns}, bytes(octavo::Layout(5).packed_bytes(rows * whole)),
                                                     rows, whole, code, scales));
    }
    for (const std::int64_t size : {2, 4, 8, 16}) {
        const std::size_t whole = (columns + 3) / 4 * 4;
        const octavo::Voronoi code{4, static_cast<std::uint32_t>(size), normal(16), normal(4), normal(static_cast<std::size_t>(4 * size * size * size * size))};
        problem.parts.push_back(octavo::voronoi_part({nullptr, nullptr, columns}, bytes(octavo::Layout(size).packed_bytes(rows * whole)),
                                                     rows, whole, code, scales));
    }
    constexpr std::size_t dimension = 16, group = 32;
    std::vector<octavo::LatticeGroup> groups;
    std::size_t size = 0;
    for (std::size_t begin = 0; begin < columns; begin += group) {
        const std::size_t own = std::min(group, (columns - begin + dimension - 1) / dimension * dimension);
        groups.push_back({own, static_cast<std::uint32_t>(1 + draws() % 8), normal(dimension * dimension), 1e-3f});
        size += rows * own * groups.back().bits / 8;
    }
    problem.parts.push_back(octavo::grouped_part({nullptr, nullptr, columns}, bytes(size), rows, groups, dimension, scales));
    check(problem, batch);
}

}  // namespace

int main() {
    for (const std::int64_t levels : {2, 3, 4, 8, 11, 16, 32, 64, 128, 256}) {
        codes(levels, 37, 72, 64, 1);
        codes(levels, 5, 200, 200, 9);
        codes(levels, 3, 77, 7, 2);
        codes(levels, 130, 64, std::size_t{1} << 62, 3);
        codes(levels, 21, 1100, 96, 18);
        codes(levels, 7, 96, 32, 1);
        codes(levels, 96, 64, 32, 3);
    }
    for (std::uint32_t bits = 1; bits <= 6; ++bits) {
        shift(bits, 67, 9, 4, 1);
        shift(bits, 16, 5, 5, 3);
        shift(bits, 301, 2, std::size_t{1} << 62, 2);
        shift(bits, 130, 70, 32, 7);
    }
    mixed(19, 33, 1);
    mixed(70, 5, 7);
    mixed(301, 20, 16);
    std::puts("ok");
}
