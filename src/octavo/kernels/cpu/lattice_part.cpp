// Parts of a product whose codes are vectors: decoded a row at a time to float32 before they are multiplied.
#include <algorithm>
#include <cstring>
#include <vector>

#include "lattice_points.hpp"
#include "product.hpp"

namespace octavo {
namespace {

class VectorPart : public RowPart {
public:
    VectorPart(Taken taken, const std::uint8_t* packed, std::size_t rows, std::size_t dimension, Factors scales)
        : RowPart(taken, rows), packed_(packed), dimension_(dimension), scales_(scales) {}

protected:
    // Digits and points of some vectors, which lie in the memory of a thread until its next call.
    struct Room {
        std::uint8_t* digits;
        float* points;
    };

    Room room(std::size_t vectors) const {
        static thread_local std::vector<std::uint8_t> digits;
        static thread_local std::vector<float> points;
        const std::size_t count = padded(vectors) * dimension_;
        // A last group of packed codes may reach beyond the row.
        digits.resize(std::max(digits.size(), count + 2 * max_digits));
        points.resize(std::max(points.size(), count));
        std::fill(digits.begin(), digits.begin() + static_cast<std::ptrdiff_t>(count), std::uint8_t{0});
        return {digits.data(), points.data()};
    }

    static std::size_t padded(std::size_t vectors) {
        return (vectors + vectors_at_once - 1) / vectors_at_once * vectors_at_once;
    }

    void scale(std::size_t row, std::size_t begin, std::size_t count, const float* points, float* values) const {
        for (std::size_t i = begin, end = begin + count; i < end;) {
            const std::size_t index = std::min(i / scales_.block, scales_.blocks - 1);
            const std::size_t last = index + 1 == scales_.blocks ? end : std::min(end, (index + 1) * scales_.block);
            for (const float factor = scales_.at(row, index); i < last; ++i) values[i] = points[i - begin] * factor;
        }
    }

    const std::uint8_t* packed_;
    const std::size_t dimension_;
    const Factors scales_;
};

class VoronoiPart final : public VectorPart {
public:
    VoronoiPart(Taken taken, const std::uint8_t* packed, std::size_t rows, std::size_t row_codes, Voronoi code, Factors scales)
        : VectorPart(taken, packed, rows, code.dimension, scales), layout_(code.size), row_codes_(row_codes), code_(code) {}

protected:
    void decode(std::size_t row, const Loops& loops, float* values) const override {
        if (code_.listed != nullptr) return look_up(row, values);
        const auto [digits, points] = room(row_codes_ / dimension_ + 1);
        const std::size_t flat = row * row_codes_, group = flat / layout_.digits, early = flat % layout_.digits;
        const std::size_t groups = (early + row_codes_ + layout_.digits - 1) / layout_.digits;
        const std::size_t left = rows_ * row_codes_ - group * layout_.digits;
        unpack_codes(layout_, packed_ + group * layout_.bytes, std::min(groups * layout_.digits, left), digits);
        // What a group holds beyond the row is decoded with it, and not used.
        choose_lattice(&loops == &portable_loops).voronoi(code_, digits + early, padded(row_codes_ / dimension_), points);
        scale(row, 0, taken.count, points, values);
    }

private:
    // The digits of a vector are the number of its point as they are packed.
    void look_up(std::size_t row, float* values) const {
        const std::size_t width = dimension_ * layout_.bytes, vectors = row_codes_ / dimension_;
        const std::size_t size = (rows_ * row_codes_ * layout_.bytes + 7) / 8;
        const auto [digits, points] = room(vectors);
        for (std::size_t v = 0, bit = row * vectors * width; v < vectors; ++v, bit += width) {
            std::uint32_t word = 0;
            if (const std::size_t byte = bit / 8; byte + sizeof word <= size)
                std::memcpy(&word, packed_ + byte, sizeof word);
            else
                std::memcpy(&word, packed_ + byte, size - byte);
            const std::size_t number = word >> bit % 8 & ((std::uint32_t{1} << width) - 1);
            std::memcpy(points + v * dimension_, code_.listed + number * dimension_, dimension_ * sizeof(float));
        }
        scale(row, 0, taken.count, points, values);
    }

    const Layout layout_;
    const std::size_t row_codes_;
    const Voronoi code_;
};

class GroupedPart final : public VectorPart {
public:
    GroupedPart(Taken taken, const std::uint8_t* packed, std::size_t rows, std::vector<LatticeGroup> groups, std::size_t dimension,
                Factors scales)
        : VectorPart(taken, packed, rows, dimension, scales), groups_(std::move(groups)) {}

protected:
    void decode(std::size_t row, const Loops& loops, float* values) const override {
        const LatticeLoops& lattice = choose_lattice(&loops == &portable_loops);
        std::size_t begin = 0;
        const std::uint8_t* from = packed_;
        for (const LatticeGroup& group : groups_) {
            const std::size_t vectors = group.columns / dimension_, bytes = group.columns * group.bits / 8;
            const auto [digits, points] = room(vectors);
            unpack_codes(Layout(std::int64_t{1} << group.bits), from + row * bytes, group.columns, digits);
            lattice.companded({dimension_, std::uint32_t{1} << group.bits, group.basis, group.mu}, digits, padded(vectors), points);
            scale(row, begin, std::min(group.columns, taken.count - begin), points, values);
            begin += group.columns;
            from += rows_ * bytes;
        }
    }

private:
    const std::vector<LatticeGroup> groups_;
};

}  // namespace

std::unique_ptr<Part> voronoi_part(Taken taken, const std::uint8_t* packed, std::size_t rows, std::size_t row_codes,
                                   const Voronoi& code, Factors scales) {
    return std::make_unique<VoronoiPart>(taken, packed, rows, row_codes, code, scales);
}

std::unique_ptr<Part> grouped_part(Taken taken, const std::uint8_t* packed, std::size_t rows, std::vector<LatticeGroup> groups,
                                   std::size_t dimension, Factors scales) {
    return std::make_unique<GroupedPart>(taken, packed, rows, std::move(groups), dimension, scales);
}

}  // namespace octavo
