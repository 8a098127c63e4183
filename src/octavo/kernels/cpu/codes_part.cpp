#include <algorithm>
#include <bit>
#include <cmath>
#include <mutex>
#include <vector>

#include "bytes.hpp"
#include "generic.hpp"
#include "lanes.hpp"
#include "product.hpp"
#include "tiles.hpp"

namespace octavo {
namespace {

// Whatever the alphabet and wherever a row begins.
class CodesPart : public RowPart {
public:
    CodesPart(Taken taken, const std::uint8_t* packed, const Layout& layout, std::size_t rows, std::size_t row_codes,
              const float* values, Factors scales)
        : RowPart(taken, rows), packed_(packed), layout_(layout), row_codes_(row_codes), scales_(scales) {
        for (std::size_t code = 0; code < max_levels; ++code) values_[code] = values[code % layout.levels];
    }

protected:
    void decode(std::size_t row, const Loops& loops, float* values) const override {
        static thread_local std::vector<std::uint8_t> codes;
        codes.resize(row_codes_ + 2 * max_digits);
        const std::size_t flat = row * row_codes_, group = flat / layout_.digits, early = flat % layout_.digits;
        // Up to the end of a group, which only the last of all may lack.
        const std::size_t groups = (early + taken.count + layout_.digits - 1) / layout_.digits;
        const std::size_t left = rows_ * row_codes_ - group * layout_.digits;
        unpack_codes(layout_, packed_ + group * layout_.bytes, std::min(groups * layout_.digits, left), codes.data());
        for (std::size_t index = 0; index < scales_.blocks; ++index) {
            // A block may be as large as the largest integer; its end is not computed where it lies beyond the row.
            const std::size_t start = index * scales_.block;
            const std::size_t length = index + 1 == scales_.blocks ? taken.count - start : scales_.block;
            loops.values(codes.data() + early + start, length, values_, layout_.levels, scales_.at(row, index),
                         values + start);
        }
    }

    const std::uint8_t* packed_;
    const Layout layout_;
    const std::size_t row_codes_;
    const Factors scales_;
    alignas(64) float values_[max_levels];
};

#if OCTAVO_X86 || OCTAVO_NEON

// Rows begin with a byte, and the codes of a lane share a scale.
class LanesPart : public CodesPart {
public:
    LanesPart(Taken taken, const std::uint8_t* packed, const Layout& layout, std::size_t rows, std::size_t row_codes,
              const float* values, Factors scales)
        : CodesPart(taken, packed, layout, rows, row_codes, values, scales) {
        const int width = static_cast<int>(layout.bytes);
        const std::size_t row_bytes = row_codes * layout.bytes / 8, span = lane_span(width);
        lanes_ = {packed, packed + rows * row_bytes, row_bytes, width, values_, nullptr, nullptr, scales, nullptr, nullptr, nullptr};
        const auto block_of = [&](std::size_t code) { return std::min(code / scales.block, scales.blocks - 1); };
        for (std::size_t chunk = 0; chunk < lanes_.chunks(); ++chunk) {
            const std::size_t code = chunk * lanes_.chunk_codes(), first = block_of(code);
            std::size_t last = first;
            for (std::size_t lane = 0; lane < lanes_in_chunk; ++lane) {
                last = block_of(code + lane * span);
                place_.push_back(static_cast<std::int32_t>(last - first) << (scales.narrow ? 16 : 0));
            }
            first_.push_back(static_cast<std::uint32_t>(first));
            present_.push_back(static_cast<std::uint16_t>((1u << (last - first + 1)) - 1));
        }
        lanes_.first = first_.data(), lanes_.present = present_.data(), lanes_.place = place_.data();
    }

    Order order(Kind, Arithmetic arithmetic) const override {
        return arithmetic != Arithmetic::portable && split_lanes_supported() ? Order::split_lanes : Order::plain;
    }

    std::size_t pitch(Order) const override { return lanes_.chunks() * lanes_.chunk_codes(); }

    void add(const Task& task) const override {
        task.order == Order::plain ? RowPart::add(task) : split_lanes_add(lanes_, task);
    }

    void fetch(std::size_t begin, std::size_t end) const override {
        // A few rows; then loops fetch for themselves.
        constexpr std::size_t most = 8192, line = 64;
        const std::uint8_t* const from = lanes_.codes + begin * lanes_.row_bytes;
        for (std::size_t byte = 0; byte < std::min((end - begin) * lanes_.row_bytes, most); byte += line)
            __builtin_prefetch(from + byte, 0, 2);
    }

protected:
    void arrange(const float* plain, Order order, float* out) const override {
        if (order == Order::plain) return Part::arrange(plain, order, out);
        split_lanes_arrange(lanes_.width, lanes_.chunks(), plain, out);
    }

    LanesCodes lanes_;

private:
    std::vector<std::uint32_t> first_;
    std::vector<std::uint16_t> present_;
    std::vector<std::int32_t> place_;
};

#endif

#if OCTAVO_X86

// The same for AVX-512 and AMX, also in bfloat16 and in bytes.
class WidePart final : public LanesPart {
public:
    WidePart(Taken taken, const std::uint8_t* packed, const Layout& layout, std::size_t rows, std::size_t row_codes,
             const float* values, Factors scales)
        : LanesPart(taken, packed, layout, rows, row_codes, values, scales) {
        float exact[max_levels];
        generic::narrow_bfloat16(values_, max_levels, narrow_);
        generic::widen_bfloat16(narrow_, max_levels, exact);
        exact_ = lanes_.width >= least_narrow && taken.factors == nullptr && std::equal(exact, exact + max_levels, values_);
        lanes_.narrow = narrow_, lanes_.bytes = byte_values_.bytes;
        tiles_ = tile_codes(packed, lanes_.row_bytes, taken.count, lanes_.width, signed_values_, scales);
    }

    Order order(Kind kind, Arithmetic arithmetic) const override {
        if (arithmetic == Arithmetic::portable || arithmetic == Arithmetic::avx2 || !lanes_supported(false))
            return LanesPart::order(kind, arithmetic);
        if (arithmetic == Arithmetic::bytes && bytes_supported() && rounds())
            return tiles_.slice != 0 && tiles_supported() ? Order::tiles : Order::byte_lanes;
        return kind == Kind::bfloat16 && exact_ && lanes_supported(true) ? Order::narrow_lanes : Order::lanes;
    }

    bool suits_many(Order order) const override { return order == Order::tiles; }

    bool begins(Order order) const override { return order == Order::tiles && tiles_.loads() != 0; }

    std::size_t pitch(Order order) const override {
        if (order == Order::byte_lanes) return bytes_pitch(lanes_.width, lanes_.chunks());
        if (order == Order::tiles) return tiles_pitch(tiles_);
        const std::size_t codes = std::max(LanesPart::pitch(order), tiles_.loads() * codes_in_load);
        return order == Order::narrow_lanes ? codes / 2 : codes;
    }

    bool arranges_like(const Part& part, Order order) const override {
        const auto* const other = dynamic_cast<const WidePart*>(&part);
        return order == Order::tiles && other != nullptr && taken.columns == other->taken.columns &&
               taken.factors == other->taken.factors && tiles_arrange_like(tiles_, other->tiles_);
    }

    std::size_t pieces(Order order) const override { return order == Order::tiles ? tiles_.loads() : 1; }

    void arrange_group(const float* plain, std::size_t vectors, std::size_t room, Order order, std::size_t begin, std::size_t end,
                       float* out) const override {
        if (order != Order::tiles) return Part::arrange_group(plain, vectors, room, order, begin, end, out);
        tiles_arrange(tiles_, plain, pitch(Order::plain), vectors, room, begin, end, out);
    }

    void add(const Task& task) const override {
        if (task.order == Order::plain || task.order == Order::split_lanes) return LanesPart::add(task);
        if (task.order == Order::byte_lanes) return bytes_add(lanes_, task);
        if (task.order == Order::tiles) return tiles_add(tiles_, byte_values_.unit, task);
        lanes_add(lanes_, task);
    }

protected:
    void arrange(const float* plain, Order order, float* out) const override {
        if (order == Order::plain || order == Order::split_lanes) return LanesPart::arrange(plain, order, out);
        if (order == Order::byte_lanes)
            return bytes_arrange(lanes_.width, lanes_.chunks(), byte_values_.unit, plain, out);
        lanes_arrange(lanes_.width, lanes_.chunks(), order == Order::narrow_lanes, plain, out);
    }

private:
    // Whether values can be bytes, which they are made when that is first asked: most products never do.
    bool rounds() const {
        std::call_once(once_, [this] {
            whole_ = std::all_of(values_, values_ + max_levels, [](float value) { return std::isfinite(value); });
            if (!whole_) return;
            byte_values_ = rounded_values(values_, layout_.levels);
            for (std::size_t code = 0; code < max_levels; ++code)
                signed_values_[code] = static_cast<std::int8_t>(byte_values_.bytes[code] - middle);
        });
        return whole_;
    }

    TileCodes tiles_;
    std::uint16_t narrow_[max_levels];
    bool exact_;  // bfloat16 inputs meet nothing but values that bfloat16 has
    mutable std::once_flag once_;
    mutable ByteValues byte_values_;
    mutable std::int8_t signed_values_[max_levels];
    mutable bool whole_ = false;  // values are finite
};

using FastPart = WidePart;
#elif OCTAVO_NEON
using FastPart = LanesPart;
#endif

}  // namespace

std::unique_ptr<Part> codes_part(Taken taken, const std::uint8_t* packed, const Layout& layout, std::size_t rows,
                                 std::size_t row_codes, const float* values, Factors scales) {
#if OCTAVO_X86 || OCTAVO_NEON
    const bool bytes = layout.power_of_two && row_codes * layout.bytes % 8 == 0;
    const bool few = scales.blocks <= std::size_t{1} << 31;
    if (bytes && few && (scales.blocks == 1 || scales.block % lane_span(static_cast<int>(layout.bytes)) == 0))
        return std::make_unique<FastPart>(taken, packed, layout, rows, row_codes, values, scales);
#endif
    return std::make_unique<CodesPart>(taken, packed, layout, rows, row_codes, values, scales);
}

}  // namespace octavo
