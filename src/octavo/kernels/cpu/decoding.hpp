// One decoding step: products with dense weights, and what lies between products: norms, attention over a cache, gates.
// Each function is defined, bit for bit, by octavo/kernels/reference/decoding.py.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "loops.hpp"

namespace octavo {

// Tokens of a tile of keys; channels of values come in multiples of it; partial sums of every sum.
constexpr std::size_t tile = 16;

// Tokens that are attended to apart from the others, from a multiple of it on: a long text is shared by threads.
constexpr std::size_t span = 64;

// So many numbers from there on.
struct Stretch {
    const void* from = nullptr;
    std::size_t count = 0;
};

// Attention of one layer, whose keys, float32 or bfloat16, lie as [slots][shared][tiles][width][tile] and values as
// [slots][shared][tiles * tile][padded].
struct Attention {
    std::size_t heads;   // of queries
    std::size_t shared;  // of keys and values, a divisor
    std::size_t width;   // channels of a head, even
    std::size_t padded;  // the same as a multiple of `tile`
    std::size_t tiles;
    std::size_t window;  // tokens that are seen, 0 for all
    float epsilon;
    const float* query_norm;  // [width], or null for none of both
    const float* key_norm;
    const float* cosine;  // [positions][width / 2]
    const float* sine;
    void* keys;
    void* values;
    bool narrow;  // keys and values are bfloat16

    std::size_t row() const { return (heads + 2 * shared) * width; }

    // The first token that is seen at a position, and the spans up to it.
    std::size_t first(std::size_t position) const {
        return window != 0 && position + 1 > window ? position + 1 - window : 0;
    }
    std::size_t spans(std::size_t position) const { return position / span + 1 - first(position) / span; }

    // The first token of a span, of which the first ones may be seen no more.
    std::size_t start(std::size_t position, std::size_t number) const { return (first(position) / span + number) * span; }

    // The keys of a span.
    Stretch keys_of(std::size_t head, std::size_t slot, std::size_t position, std::size_t number) const {
        const std::size_t begin = start(position, number) / tile, end = std::min(begin + span / tile, position / tile + 1);
        const std::size_t at = ((slot * shared + head) * tiles + begin) * width * tile;
        return {static_cast<const char*>(keys) + at * (narrow ? sizeof(std::uint16_t) : sizeof(float)), (end - begin) * width * tile};
    }

    // Floats of what a span gives for one head: its mixed values, the largest score, and the sum of shares.
    std::size_t partial() const { return padded + tile; }
};

// outputs[b][r] = inputs[b] · weight[r] + bias[r].
struct Dense {
    const void* weight;  // [rows][columns], float32 or bfloat16
    bool narrow;
    std::size_t rows;
    std::size_t columns;
    const float* bias;  // [rows], or null
    const float* inputs;
    float* outputs;
};

struct DecodingLoops {
    // residual += delta unless that is null; out = weight * (residual / root mean square).
    void (*add_norm)(std::size_t rows, std::size_t width, float* residual, const float* delta, const float* weight,
                     float epsilon, float* out);

    // One token's key and value of one head into the cache. `found` holds its queries, keys and values; `scratch` has as
    // many floats as scratch_of says.
    void (*append)(const Attention& layer, const float* found, std::size_t shared, std::size_t slot, std::size_t position,
                   float* scratch);

    // What one span gives for the heads that share keys and values, once the token's are in the cache; the partials of
    // these heads lie `pitch` apart. `next` is what this thread reads then.
    void (*attend)(const Attention& layer, const float* found, std::size_t shared, std::size_t slot, std::size_t position,
                   std::size_t number, const Stretch& next, float* scratch, float* partials, std::size_t pitch);

    // The attention of one head from the partials of its spans.
    void (*merge)(const Attention& layer, const float* partials, std::size_t spans, float* out);

    // out = silu(gate) * up, where each row of `found` holds both; rows of `out` lie `pitch` apart.
    void (*gate)(std::size_t rows, std::size_t inner, const float* found, float* out, std::size_t pitch);

    // The largest of some values, and its first place; NaN if one of them is.
    void (*find_largest)(const float* values, std::size_t count, float* largest, std::size_t* place);

    // out = e^((values - largest) * factor), and 0 where that is below e^-87; returns the sum.
    float (*shares)(const float* values, std::size_t count, float largest, float factor, float* out);

    // The outputs of some of the weight's rows, for `batch` inputs, each of which is summed by itself.
    void (*dense)(const Dense& product, std::size_t begin, std::size_t end, std::size_t batch);
};

inline std::size_t scratch_of(const Attention& layer) {
    return layer.heads / layer.shared * (span + layer.padded) + layer.padded;
}

// The place that a number from 0 up to 1 falls on, places being as wide as e^(values / temperature). The largest value is
// finite.
std::size_t drawn(const DecodingLoops& loops, const float* values, std::size_t count, float largest, float temperature,
                  double uniform);

// Those of an instruction set.
const DecodingLoops& avx2_decoding();
const DecodingLoops& avx512_decoding();

// The fastest loops this processor runs; `portable` forces the portable ones.
const DecodingLoops& choose_decoding(bool portable);

}  // namespace octavo
