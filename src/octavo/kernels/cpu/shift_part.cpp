#include "shift_part.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

#include "lanes.hpp"

namespace octavo {
namespace {

// Rows that are decoded before the next strip of columns is staged.
constexpr std::size_t stretch = 256;

// The values of a curve at places counted in knots.
void plain_curve_values(const float* curve, std::size_t knots, const float* places, std::size_t count, float* values) {
    for (std::size_t i = 0; i < count; ++i) {
        const std::size_t knot = std::min(static_cast<std::size_t>(places[i]), knots - 2);
        const float share = places[i] - static_cast<float>(knot);
        values[i] = curve[knot] + share * (curve[knot + 1] - curve[knot]);
    }
}

class ShiftPart final : public Part {
public:
    ShiftPart(Taken taken, const std::uint8_t* codes, std::size_t stream_bytes, ShiftTrellis trellis,
              const float* curve, std::size_t knots, std::size_t rows, Factors scales)
        : Part(taken), codes_(codes), stream_bytes_(stream_bytes), trellis_(trellis), curve_(curve), knots_(knots),
          rows_(rows), scales_(scales) {}

    Order order(Kind, bool portable) const override {
#if OCTAVO_X86
        if (!portable && lanes_supported(false) && trellis_.bits <= max_lanes_bits) return Order::direct;
#else
        (void)portable;
#endif
        return Order::plain;
    }

    std::size_t prepared() const override { return curve_ == nullptr ? 0 : std::size_t{1} << trellis_.window; }

    void prepare(Order order, float* out) const override {
#if OCTAVO_X86
        if (order != Order::plain && knots_ == 17) return curve_values(curve_, trellis_.table, prepared(), out);
#else
        (void)order;
#endif
        plain_curve_values(curve_, knots_, trellis_.table, prepared(), out);
    }

    void add(const Task& task) const override {
        static thread_local std::vector<float> sums;
        const ShiftTrellis trellis{trellis_.window, trellis_.bits, curve_ == nullptr ? trellis_.table : task.prepared};
        const std::size_t rows = task.end - task.begin, height = (rows + lanes_rows - 1) / lanes_rows * lanes_rows;
        sums.resize(std::max(sums.size(), height * task.batch));
        for (std::size_t index = 0; index < scales_.blocks; ++index) {
            // A block may be as large as the largest integer; its end is not computed where it lies beyond the row.
            const std::size_t first = index * scales_.block;
            const std::size_t last = index + 1 == scales_.blocks ? taken.count : first + scales_.block;
            std::fill(sums.begin(), sums.begin() + static_cast<std::ptrdiff_t>(height * task.batch), 0.0f);
            add_block(task, trellis, first, last, sums.data(), height);
            for (std::size_t b = 0; b < task.batch; ++b)
                for (std::size_t row = 0; row < rows; ++row)
                    task.out[b * task.out_pitch + task.begin + row] +=
                        scales_.at(task.begin + row, index) * sums[b * height + row];
        }
    }

    std::size_t weights() const override { return dear * rows_ * taken.count; }

private:
    // A look-up in memory takes as long as so many in registers.
    static constexpr std::size_t dear = 4;

    void add_block(const Task& task, const ShiftTrellis& trellis, std::size_t first, std::size_t last, float* sums,
                   std::size_t height) const {
        const std::size_t rows = task.end - task.begin, start = task.begin * trellis.bits / 8;
        const std::uint8_t* streams = codes_ + first * stream_bytes_ + start;
        const std::size_t present = stream_bytes_ - start;
        const float* inputs = task.inputs + first;
#if OCTAVO_X86
        if (task.order == Order::direct)
            return shift_sums(trellis, streams, stream_bytes_, present, last - first, rows, inputs, task.pitch,
                              task.batch, sums, height);
#endif
        // A window begins in the last byte of a stretch at the latest, and four bytes are read at once.
        std::uint8_t staged[lane][stretch + 4];
        float values[stretch][lane];
        for (std::size_t column = 0; column < last - first; column += lane) {
            const std::size_t width = std::min(lane, last - first - column);
            for (std::size_t row = 0; row < rows; row += stretch) {
                const std::size_t count = std::min(stretch, rows - row), at = row * trellis.bits / 8;
                const std::size_t wanted = count * trellis.bits / 8 + 4, held = std::min(wanted, present - at);
                for (std::size_t j = 0; j < lane; ++j) {
                    const std::size_t own = j < width ? held : 0;
                    if (own != 0) std::memcpy(staged[j], streams + (column + j) * stream_bytes_ + at, own);
                    std::memset(staged[j] + own, 0, wanted - own);
                }
                task.loops->shift_values(trellis, staged[0], sizeof staged[0], count, values[0]);
                for (std::size_t b = 0; b < task.batch; ++b)
                    for (std::size_t i = 0; i < count; ++i)
                        for (std::size_t j = 0; j < width; ++j)
                            sums[b * height + row + i] += values[i][j] * inputs[b * task.pitch + column + j];
            }
        }
    }

    const std::uint8_t* codes_;
    const std::size_t stream_bytes_;
    const ShiftTrellis trellis_;
    const float* curve_;
    const std::size_t knots_, rows_;
    const Factors scales_;
};

}  // namespace

std::unique_ptr<Part> shift_part(Taken taken, const std::uint8_t* codes, std::size_t stream_bytes,
                                 ShiftTrellis trellis, const float* curve, std::size_t knots, std::size_t rows,
                                 Factors scales) {
    return std::make_unique<ShiftPart>(taken, codes, stream_bytes, trellis, curve, knots, rows, scales);
}

}  // namespace octavo
