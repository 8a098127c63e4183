#include "shift_part.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>
#include <optional>
#include <vector>

#include "lanes.hpp"
#include "shift_bytes.hpp"

namespace octavo {
namespace {

// Rows that are decoded before the next strip of columns is staged.
constexpr std::size_t stretch = 256;

// The values of a curve at places counted in knots, rounded once, as curve_values rounds them.
void plain_curve_values(const float* curve, std::size_t knots, const float* places, std::size_t count, float* values) {
    for (std::size_t i = 0; i < count; ++i) {
        const std::size_t knot = std::min(static_cast<std::size_t>(places[i]), knots - 2);
        const float share = places[i] - static_cast<float>(knot);
        const double step = curve[knot + 1] - curve[knot];
        values[i] = static_cast<float>(curve[knot] + share * step);
    }
}

class ShiftPart final : public Part {
public:
    ShiftPart(Taken taken, const std::uint8_t* codes, std::size_t stream_bytes, ShiftTrellis trellis,
              const float* curve, std::size_t knots, const Mixer* mixer, std::size_t rows, Factors scales)
        : Part(taken), codes_(codes), stream_bytes_(stream_bytes), trellis_(trellis), curve_(curve), knots_(knots),
          rows_(rows), scales_(scales) {
        if (mixer != nullptr) mixer_ = *mixer;
    }

    Order order(Kind, Arithmetic arithmetic) const override {
#if OCTAVO_X86
        if (arithmetic == Arithmetic::bytes && bytes_supported() && rounds()) return Order::bytes;
        const bool wide = arithmetic != Arithmetic::portable && arithmetic != Arithmetic::avx2 && lanes_supported(false);
        if (wide && trellis_.bits <= max_lanes_bits) return Order::direct;
#else
        (void)arithmetic;
#endif
        return Order::plain;
    }

    // As bytes, then two numbers a block (see shift_bytes_sums).
    std::size_t pitch(Order order) const override {
        const std::size_t count = (taken.count + inputs_in_block - 1) / inputs_in_block * inputs_in_block;
        return order == Order::bytes ? count / 4 + 2 * (count / inputs_in_block) + 16 : count;
    }

    void arrange(const float* plain, Order order, float* out) const override {
        if (order != Order::bytes) return Part::arrange(plain, order, out);
#if OCTAVO_X86
        static thread_local std::vector<float> scales;
        const std::size_t count = pitch(Order::plain), blocks = count / inputs_in_block;
        scales.resize(std::max(scales.size(), blocks));
        auto* const bytes = reinterpret_cast<std::int8_t*>(out);
        bytes_narrow(plain, count, inputs_in_block, bytes_.unit, bytes, scales.data());
        float* const numbers = out + count / 4;
        for (std::size_t block = 0; block < blocks; ++block) {
            std::int32_t sum = 0;
            for (std::size_t i = 0; i < inputs_in_block; ++i) sum += bytes[block * inputs_in_block + i];
            sum *= -middle;
            numbers[2 * block] = scales[block];
            std::memcpy(numbers + 2 * block + 1, &sum, sizeof sum);
        }
#endif
    }

    std::size_t prepared() const override { return curve_ == nullptr ? 0 : std::size_t{1} << trellis_.window; }

    void prepare(Order order, float* out) const override {
        if (order == Order::bytes) return;
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

    void add_row(std::size_t row, float* out) const override {
        static thread_local std::vector<float> values;
        values.resize(taken.count);
        const std::size_t bit = row * trellis_.bits, mask = (std::size_t{1} << trellis_.window) - 1;
        for (std::size_t column = 0; column < taken.count; ++column) {
            std::uint32_t bytes = 0;
            for (std::size_t i = 0; i < 4 && bit / 8 + i < stream_bytes_; ++i)
                bytes |= std::uint32_t{codes_[column * stream_bytes_ + bit / 8 + i]} << 8 * i;
            const float* const entry = trellis_.table + (bytes >> bit % 8 & mask);
            values[column] = *entry;
            if (curve_ != nullptr) plain_curve_values(curve_, knots_, entry, 1, values.data() + column);
            values[column] *= scales_.at(row, std::min(column / scales_.block, scales_.blocks - 1));
        }
        scatter(values.data(), out);
    }

    std::size_t weights() const override { return dear * rows_ * taken.count; }

private:
    // Whether values can be bytes, which they are made when that is first asked: most products never do.
    bool rounds() const {
        std::call_once(once_, [this] {
            const bool whole_blocks = scales_.blocks == 1 || scales_.block % inputs_in_block == 0;
            if (!mixer_ || trellis_.window != byte_window || trellis_.bits > max_byte_bits || !whole_blocks) return;
            std::vector<float> values(trellis_.table, trellis_.table + (std::size_t{1} << byte_window));
            if (curve_ != nullptr)
                plain_curve_values(curve_, knots_, trellis_.table, values.size(), values.data());
            rounds_ = std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
            if (rounds_) bytes_ = rounded_trellis(values.data(), *mixer_, trellis_.bits);
        });
        return rounds_;
    }

    // A look-up in memory takes as long as so many in registers.
    static constexpr std::size_t dear = 4;

    void add_block(const Task& task, const ShiftTrellis& trellis, std::size_t first, std::size_t last, float* sums,
                   std::size_t height) const {
        const std::size_t rows = task.end - task.begin, start = task.begin * trellis.bits / 8;
        const std::uint8_t* streams = codes_ + first * stream_bytes_ + start;
        const std::size_t present = stream_bytes_ - start;
        const float* inputs = task.inputs + first;
#if OCTAVO_X86
        if (task.order == Order::bytes) {
            // So few columns at a time, that the processor knows the pages of their streams.
            constexpr std::size_t most = 64;
            const float* const numbers = task.inputs + pitch(Order::plain) / 4;
            for (std::size_t column = first; column < last; column += most)
                shift_bytes_sums(bytes_, streams + (column - first) * stream_bytes_, stream_bytes_, present,
                                 std::min(most, last - column), rows, task.inputs + column / 4,
                                 numbers + column / inputs_in_block * 2, task.pitch, task.batch, sums, height);
            return;
        }
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
    std::optional<Mixer> mixer_;
    mutable std::once_flag once_;
    mutable ShiftBytes bytes_{};
    mutable bool rounds_ = false;
};

}  // namespace

std::unique_ptr<Part> shift_part(Taken taken, const std::uint8_t* codes, std::size_t stream_bytes,
                                 ShiftTrellis trellis, const float* curve, std::size_t knots, const Mixer* mixer,
                                 std::size_t rows, Factors scales) {
    return std::make_unique<ShiftPart>(taken, codes, stream_bytes, trellis, curve, knots, mixer, rows, scales);
}

}  // namespace octavo
