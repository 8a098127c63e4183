#include "separable.hpp"

#include <algorithm>
#include <vector>

#include "threads.hpp"

namespace octavo {
namespace {

constexpr std::size_t piece_size = 256;

// A grid's values are several times as fast to compute as those of packed codes.
constexpr std::size_t least = 4 * least_per_thread;

}  // namespace

void separable_dequantize(const Loops& loops, const void* codes, bool wide, Shape shape, const float* row_step,
                          const float* column_step, const float* points, std::size_t half, void* out, Kind kind,
                          std::size_t threads) {
    // Without points the code 0 alone has one, which is 0.
    const std::size_t count = points == nullptr ? 0 : 2 * half + 1;
    std::vector<float> table(std::max(count, few_points));
    std::copy(points, points + count, table.begin());
    const Points replaced{table.data(), static_cast<std::int32_t>(half)};
    in_ranges(shape.rows, 1, shape.cols, threads, [&](std::size_t begin, std::size_t end) {
        float buffer[piece_size];
        for (std::size_t row = begin; row < end; ++row) {
            const float step = row_step[row];
            for (std::size_t col = 0; col < shape.cols; col += piece_size) {
                const std::size_t length = std::min(piece_size, shape.cols - col), flat = row * shape.cols + col;
                float* values = kind == Kind::float32 ? static_cast<float*>(out) + flat : buffer;
                if (wide)
                    loops.grid_int16(static_cast<const std::int16_t*>(codes) + flat, length, replaced, step,
                                     column_step + col, values);
                else
                    loops.grid_int8(static_cast<const std::int8_t*>(codes) + flat, length, replaced, step,
                                    column_step + col, values);
                if (kind != Kind::float32)
                    loops.narrow_bfloat16(values, length, static_cast<std::uint16_t*>(out) + flat);
            }
        }
    }, least);
}

}  // namespace octavo
