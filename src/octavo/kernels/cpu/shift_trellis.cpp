#include "shift_trellis.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "threads.hpp"

namespace octavo {
namespace {

// So many neighboring columns share the lines of the cache that they are read through.
constexpr std::size_t strip = 16;

// A path is hundreds of times as much work as a code.
constexpr std::size_t least_to_encode = least_per_thread / 256;

constexpr float reach = 1024.0f;

// Rows that are decoded before the next strip of columns is staged.
constexpr std::size_t stretch = 256;

struct Walk {
    std::vector<float> weights;            // from the last row to the first
    std::vector<float> total;              // twice the classes of states, and what is read beyond
    std::vector<std::uint8_t> decisions;   // by step, bit of the decision and class

    Walk(const ShiftTrellis& trellis, std::size_t rows)
        : weights(rows), total(2 * trellis.nodes() + shift_spare), decisions(rows * trellis.decision_bytes()) {}
};

void encode(const Loops& loops, const ShiftTrellis& trellis, Walk& walk, std::uint8_t* out) {
    const std::size_t rows = walk.weights.size(), nodes = trellis.nodes(), plane = nodes / 8;
    float* total = walk.total.data();
    std::fill(total, total + nodes, std::numeric_limits<float>::infinity());
    total[0] = 0;
    for (std::size_t step = 0; step < rows; step += shift_period) {
        const std::size_t length = std::min(shift_period, rows - step);
        loops.shift_walk(trellis, &walk.weights[step], length, total, &walk.decisions[step * trellis.decision_bytes()]);
        if (length == shift_period) {
            const float smallest = *std::min_element(total, total + nodes);
            for (std::size_t node = 0; node < nodes; ++node) total[node] -= smallest;
        }
    }
    std::size_t node = static_cast<std::size_t>(std::min_element(total, total + nodes) - total);
    for (std::size_t row = 0; row < rows; ++row) {
        const std::uint8_t* decision = &walk.decisions[(rows - 1 - row) * trellis.decision_bytes()];
        std::size_t branch = 0;
        for (std::uint32_t bit = 0; bit < trellis.bits; ++bit)
            branch |= std::size_t{decision[bit * plane + node / 8] >> (node % 8) & 1u} << bit;
        const std::size_t state = branch * nodes + node, at = row * trellis.bits;
        const std::size_t code = (state & ((std::size_t{1} << trellis.bits) - 1)) << (at % 8);
        out[at / 8] = static_cast<std::uint8_t>(out[at / 8] | code);
        if (code >> 8 != 0) out[at / 8 + 1] = static_cast<std::uint8_t>(code >> 8);
        node = state >> trellis.bits;
    }
}

}  // namespace

void shift_encode(const Loops& loops, const ShiftTrellis& trellis, const float* scaled, Shape shape,
                  std::uint8_t* out, std::size_t stream_bytes, std::size_t threads) {
    const std::size_t rows = shape.rows, cols = shape.cols;
    std::memset(out, 0, cols * stream_bytes);
    in_ranges(cols, 1, rows, threads, [&](std::size_t begin, std::size_t end) {
        std::vector<float> weights(std::min(strip, end - begin) * rows);
        Walk walk(trellis, rows);
        for (std::size_t col = begin; col < end; col += strip) {
            const std::size_t count = std::min(strip, end - col);
            for (std::size_t row = 0; row < rows; ++row)
                for (std::size_t j = 0; j < count; ++j) {
                    const float weight = scaled[row * cols + col + j];
                    const float above = weight > -reach ? weight : -reach;  // also where it is NaN
                    weights[j * rows + rows - 1 - row] = above < reach ? above : reach;
                }
            for (std::size_t j = 0; j < count; ++j) {
                std::copy(&weights[j * rows], &weights[j * rows] + rows, walk.weights.begin());
                encode(loops, trellis, walk, out + (col + j) * stream_bytes);
            }
        }
    }, least_to_encode);
}

void shift_decode(const Loops& loops, const ShiftTrellis& trellis, const std::uint8_t* codes,
                  std::size_t stream_bytes, Shape shape, const Scales& scales, const float* column, float* out,
                  std::size_t threads) {
    const std::size_t rows = shape.rows, cols = shape.cols;
    in_ranges(cols, lane, rows, threads, [&](std::size_t begin, std::size_t end) {
        // A window begins in the last byte of a stretch at the latest, and four bytes are read at once.
        std::uint8_t staged[lane][stretch + 4];
        float values[stretch][lane];
        for (std::size_t col = begin; col < end; col += lane) {
            const std::size_t width = std::min(lane, end - col);
            std::size_t block[lane] = {};
            float factor[lane] = {};
            for (std::size_t j = 0; j < width; ++j) {
                block[j] = (col + j) / scales.block;
                factor[j] = column[col + j];
            }
            for (std::size_t row = 0; row < rows; row += stretch) {
                const std::size_t count = std::min(stretch, rows - row), first = row * trellis.bits / 8;
                const std::size_t wanted = count * trellis.bits / 8 + 4;
                const std::size_t present = std::min(wanted, stream_bytes - first);
                for (std::size_t j = 0; j < lane; ++j) {
                    const std::size_t held = j < width ? present : 0;
                    if (held != 0) std::memcpy(staged[j], codes + (col + j) * stream_bytes + first, held);
                    std::memset(staged[j] + held, 0, wanted - held);
                }
                loops.shift_values(trellis, staged[0], sizeof staged[0], count, values[0]);
                for (std::size_t i = 0; i < count; ++i) {
                    const float* scale = scales.data + (scales.shared ? 0 : (row + i) * scales.blocks);
                    float* to = out + (row + i) * cols + col;
                    for (std::size_t j = 0; j < width; ++j) to[j] = values[i][j] * (scale[block[j]] * factor[j]);
                }
            }
        }
    });
}

}  // namespace octavo
