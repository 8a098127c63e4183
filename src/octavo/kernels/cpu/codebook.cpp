#include "codebook.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "threads.hpp"

namespace octavo {
namespace {

// Codes are staged in the first-level cache: a stretch of whole groups, in pieces of one block.
constexpr std::size_t stretch_size = 2048;
constexpr std::size_t piece_size = 256;
static_assert(piece_size % lane == 0);

// Walks the pieces of [begin, end) that lie in one row and one block: visit(offset from begin, length, flat, scale).
class Pieces {
public:
    Pieces(const Shape& shape, const Scales& scales, std::size_t start)
        : shape_(shape), scales_(scales), row_(start / shape.cols), col_(start % shape.cols),
          index_(col_ / scales.block) {}

    template <typename Visit>
    void walk(std::size_t count, const Visit& visit) {
        for (std::size_t done = 0; done < count;) {
            const std::size_t last = std::min(shape_.cols - col_, block_end() - col_);
            const std::size_t length = std::min({last, count - done, piece_size});
            const std::size_t first = scales_.shared ? 0 : row_ * scales_.blocks;
            visit(done, length, row_ * shape_.cols + col_, first + index_);
            done += length;
            advance(length);
        }
    }

private:
    std::size_t block_end() const {
        // A block may be as large as the largest integer; its end is not computed where it lies beyond the row.
        return index_ + 1 >= scales_.blocks ? shape_.cols : (index_ + 1) * scales_.block;
    }

    void advance(std::size_t length) {
        const std::size_t end = block_end();
        col_ += length;
        if (col_ == shape_.cols) {
            ++row_;
            col_ = index_ = 0;
        } else if (col_ == end) {
            ++index_;
        }
    }

    const Shape& shape_;
    const Scales& scales_;
    std::size_t row_, col_, index_;
};

// A piece of weights as float32 times the sign: the weights themselves where they can be read in whole lanes.
const float* widened(const Loops& loops, const void* weights, Kind kind, std::size_t flat, std::size_t length,
                     bool negate, float* buffer) {
    if (kind == Kind::float32) {
        const float* source = static_cast<const float*>(weights) + flat;
        if (!negate && length % lane == 0) return source;
        std::memcpy(buffer, source, length * sizeof(float));
    } else {
        const std::uint16_t* source = static_cast<const std::uint16_t*>(weights) + flat;
        (kind == Kind::bfloat16 ? loops.widen_bfloat16 : loops.widen_float16)(source, length, buffer);
    }
    if (negate)
        for (std::size_t i = 0; i < length; ++i) buffer[i] = -buffer[i];
    return buffer;
}

}  // namespace

void quantize_pack(const Loops& loops, const Layout& layout, const void* weights, Kind kind, Shape shape,
                   const Scales& scales, const float* midpoints, std::size_t count, std::uint8_t* out,
                   std::size_t threads) {
    const int depth = std::bit_width(count);
    in_ranges(shape.rows * shape.cols, layout.digits, 1, threads, [&](std::size_t begin, std::size_t end) {
        alignas(32) float thresholds[max_levels];
        alignas(32) float buffer[piece_size] = {};
        alignas(32) std::uint8_t codes[stretch_size + max_digits + lane];
        std::fill(thresholds, thresholds + max_levels, std::numeric_limits<float>::infinity());
        const std::size_t stretch = stretch_size / layout.digits * layout.digits;
        std::size_t current = std::numeric_limits<std::size_t>::max();
        bool negate = false;
        Pieces pieces(shape, scales, begin);
        for (std::size_t start = begin; start < end; start += stretch) {
            const std::size_t filled = std::min(stretch, end - start);
            pieces.walk(filled, [&](std::size_t offset, std::size_t length, std::size_t flat, std::size_t index) {
                if (index != current) {
                    const float scale = scales.data[index];
                    negate = scale < 0;
                    loops.scale(midpoints, count, negate ? -scale : scale, thresholds);
                    current = index;
                }
                const float* x = widened(loops, weights, kind, flat, length, negate, buffer);
                // Codes beyond the piece are overwritten by the next one.
                loops.codes(x, (length + lane - 1) / lane * lane, thresholds, count, depth, codes + offset);
            });
            pack_codes(layout, codes, filled, out + start / layout.digits * layout.bytes);
        }
    });
}

void unpack_dequantize(const Loops& loops, const Layout& layout, const std::uint8_t* packed, Shape shape,
                       const Scales& scales, const float* codebook, void* out, Kind kind, std::size_t threads) {
    alignas(32) float table[max_levels] = {};
    std::copy(codebook, codebook + layout.levels, table);
    in_ranges(shape.rows * shape.cols, layout.digits, 1, threads, [&](std::size_t begin, std::size_t end) {
        alignas(32) float buffer[piece_size];
        alignas(32) std::uint8_t codes[stretch_size + max_digits];
        const std::size_t stretch = stretch_size / layout.digits * layout.digits;
        Pieces pieces(shape, scales, begin);
        for (std::size_t start = begin; start < end; start += stretch) {
            const std::size_t filled = std::min(stretch, end - start);
            unpack_codes(layout, packed + start / layout.digits * layout.bytes, filled, codes);
            pieces.walk(filled, [&](std::size_t offset, std::size_t length, std::size_t flat, std::size_t index) {
                const bool direct = kind == Kind::float32;
                float* values = direct ? static_cast<float*>(out) + flat : buffer;
                loops.values(codes + offset, length, table, layout.levels, scales.data[index], values);
                if (!direct) loops.narrow_bfloat16(buffer, length, static_cast<std::uint16_t*>(out) + flat);
            });
        }
    });
}

}  // namespace octavo
