#include "column_codes.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "threads.hpp"

namespace octavo {
namespace {

constexpr std::size_t together = 8;  // codes of w bits fill w bytes

// Rows to a run, whose codes beyond their columns are noted together.
constexpr std::size_t run_rows = 256;

// The largest size of a code of so many bits.
constexpr int largest_code(int width) { return width == 0 ? 0 : (1 << (width - 1)) - 1; }

// The place in column_widths of the narrowest width that holds a size below 128; larger ones need the last.
constexpr auto narrowest = [] {
    std::array<std::uint8_t, 128> found{};
    for (std::size_t size = 0; size < found.size(); ++size)
        while (largest_code(column_widths[found[size]]) < static_cast<int>(size)) ++found[size];
    return found;
}();

void pack_row(const ColumnGroup& group, const std::int16_t* placed, std::uint8_t* out) {
    if (group.width == 16) {
        std::memcpy(out, placed, 2 * group.count);
        return;
    }
    const auto bias = static_cast<std::uint64_t>(largest_code(group.width) + 1);
    for (std::size_t first = 0; first < group.count; first += together, out += group.width) {
        std::uint64_t bits = 0;
        for (std::size_t i = std::min(together, group.count - first); i-- > 0;)
            bits |= ((static_cast<std::uint64_t>(placed[first + i]) + bias) & 0xFF) << (i * static_cast<std::size_t>(group.width));
        std::memcpy(out, &bits, static_cast<std::size_t>(group.width));
    }
}

struct Far {
    std::int32_t row, column;
    std::int16_t code;
};

}  // namespace

void count_widths(const std::int16_t* codes, Shape shape, std::int64_t* counts, std::size_t threads) {
    const std::size_t size = shape.cols * column_width_count;
    std::fill_n(counts, size, 0);
    std::mutex mutex;
    in_ranges(shape.rows, 1, shape.cols, threads, [&](std::size_t begin, std::size_t end) {
        std::vector<std::int64_t> own(size);
        for (std::size_t row = begin; row < end; ++row)
            for (std::size_t column = 0; column < shape.cols; ++column) {
                const auto magnitude = static_cast<std::size_t>(std::abs(int{codes[row * shape.cols + column]}));
                const std::size_t width = magnitude < narrowest.size() ? narrowest[magnitude] : column_width_count - 1;
                ++own[column * column_width_count + width];
            }
        const std::scoped_lock lock(mutex);
        for (std::size_t i = 0; i < size; ++i) counts[i] += own[i];
    });
}

bool pack_columns(const std::int16_t* codes, Shape shape, const std::int32_t* order, const std::vector<ColumnGroup>& groups,
                  const FarCodes& far, std::size_t threads) {
    std::vector<int> largest(shape.cols);
    const std::int32_t* column = order;
    for (const ColumnGroup& group : groups)
        for (std::size_t i = 0; i < group.count; ++i) largest[static_cast<std::size_t>(*column++)] = largest_code(group.width);
    std::vector<std::vector<Far>> runs((shape.rows + run_rows - 1) / run_rows);
    in_ranges(runs.size(), 1, run_rows * shape.cols, threads, [&](std::size_t begin, std::size_t end) {
        std::vector<std::int16_t> near(shape.cols), placed(shape.cols);
        for (std::size_t row = begin * run_rows; row < std::min(shape.rows, end * run_rows); ++row) {
            const std::int16_t* const from = codes + row * shape.cols;
            for (std::size_t column = 0; column < shape.cols; ++column) {
                const bool fits = std::abs(int{from[column]}) <= largest[column];
                near[column] = fits ? from[column] : std::int16_t{0};
                if (!fits)
                    runs[row / run_rows].push_back(
                        {static_cast<std::int32_t>(row), static_cast<std::int32_t>(column), from[column]});
            }
            for (std::size_t place = 0; place < shape.cols; ++place) placed[place] = near[static_cast<std::size_t>(order[place])];
            const std::int16_t* next = placed.data();
            for (const ColumnGroup& group : groups) {
                if (group.width != 0) pack_row(group, next, group.out + row * group.pitch);
                next += group.count;
            }
        }
    });
    std::size_t count = 0;
    for (const auto& run : runs) count += run.size();
    if (count != far.count) return false;
    std::size_t next = 0;
    for (const auto& run : runs)
        for (const Far& each : run) {
            far.row[next] = each.row, far.column[next] = each.column;
            far.code[next++] = each.code;
        }
    return true;
}

}  // namespace octavo
