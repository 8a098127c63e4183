#include "separable.hpp"

#include <algorithm>

#include "threads.hpp"

namespace octavo {
namespace {

constexpr std::size_t piece_size = 256;

template <typename Code>
void replace(const Code* codes, std::size_t n, const float* points, std::ptrdiff_t half, float* out) {
    for (std::size_t i = 0; i < n; ++i) {
        const std::ptrdiff_t code = codes[i];
        if (-half <= code && code <= half) out[i] = points[code + half];
    }
}

}  // namespace

void separable_dequantize(const Loops& loops, const void* codes, bool wide, Shape shape, const float* row_step,
                          const float* column_step, const float* points, std::size_t half, void* out, Kind kind,
                          std::size_t threads) {
    in_ranges(shape.rows, 1, shape.cols, threads, [&](std::size_t begin, std::size_t end) {
        float buffer[piece_size];
        for (std::size_t row = begin; row < end; ++row) {
            for (std::size_t col = 0; col < shape.cols; col += piece_size) {
                const std::size_t length = std::min(piece_size, shape.cols - col), flat = row * shape.cols + col;
                const auto* bytes = static_cast<const std::int8_t*>(codes) + flat;
                const auto* words = static_cast<const std::int16_t*>(codes) + flat;
                float* values = kind == Kind::float32 ? static_cast<float*>(out) + flat : buffer;
                wide ? loops.widen_int16(words, length, values) : loops.widen_int8(bytes, length, values);
                if (points != nullptr) {
                    const auto reach = static_cast<std::ptrdiff_t>(half);
                    wide ? replace(words, length, points, reach, values) : replace(bytes, length, points, reach, values);
                }
                loops.separable(values, row_step[row], column_step + col, length, values);
                if (kind != Kind::float32)
                    loops.narrow_bfloat16(values, length, static_cast<std::uint16_t*>(out) + flat);
            }
        }
    });
}

}  // namespace octavo
