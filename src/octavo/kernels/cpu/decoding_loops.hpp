// The loops of decoding.hpp, compiled for one instruction set by each file that includes this.
#pragma once

#include <cmath>
#include <cstring>
#include <type_traits>

#include "decoding.hpp"
#include "generic.hpp"
#include "vectors.hpp"

#if OCTAVO_NEON
#include <arm_neon.h>
#endif

namespace octavo {
namespace {

static_assert(tile == numbers_at_once);
using Narrow = std::uint16_t __attribute__((vector_size(2 * tile)));

OCTAVO_INLINE Vector load(const float* from) {
    Vector vector;
    std::memcpy(&vector, from, sizeof vector);
    return vector;
}

OCTAVO_INLINE Vector load(const std::uint16_t* from) {
#ifdef OCTAVO_DECODES_AVX512
    // Compilers widen one half after the other.
    const __m512i bits = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))), 16);
#else
    Narrow narrow;
    std::memcpy(&narrow, from, sizeof narrow);
    const Integers bits = __builtin_convertvector(narrow, Integers) << 16;
#endif
    Vector vector;
    std::memcpy(&vector, &bits, sizeof vector);
    return vector;
}

// a * b + c, rounded once.
OCTAVO_INLINE Vector fused(const Vector& a, const Vector& b, const Vector& c) {
#if defined(OCTAVO_DECODES_AVX512)
    return _mm512_fmadd_ps(a, b, c);
#elif defined(OCTAVO_DECODES_AVX2) || OCTAVO_NEON
#if OCTAVO_NEON
    using Register = float32x4_t;
    const auto each = [](Register x, Register y, Register z) { return vfmaq_f32(z, x, y); };
#else
    using Register = __m256;
    const auto each = [](Register x, Register y, Register z) OCTAVO_LAMBDA { return _mm256_fmadd_ps(x, y, z); };
#endif
    constexpr std::size_t count = sizeof(Vector) / sizeof(Register);
    Register x[count], y[count], z[count];
    std::memcpy(x, &a, sizeof a), std::memcpy(y, &b, sizeof b), std::memcpy(z, &c, sizeof c);
    for (std::size_t i = 0; i < count; ++i) z[i] = each(x[i], y[i], z[i]);
    Vector found;
    std::memcpy(&found, z, sizeof found);
    return found;
#else
    Vector found = c;
    for (std::size_t i = 0; i < tile; ++i) found[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return found;
#endif
}

OCTAVO_INLINE void store(float* to, const Vector& vector) { std::memcpy(to, &vector, sizeof vector); }

OCTAVO_INLINE Vector load_first(const float* from, std::size_t count) {
    Vector vector{};
    std::memcpy(&vector, from, count * sizeof(float));
    return vector;
}

OCTAVO_INLINE void store_first(float* to, const Vector& vector, std::size_t count) {
    std::memcpy(to, &vector, count * sizeof(float));
}

// The lower half plus the upper one, until a number is left in front.
OCTAVO_INLINE float sum_of(Vector v) {
    v += __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15);
    v += __builtin_shufflevector(v, v, 2, 3, 0, 1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return v[0] + v[1];
}

OCTAVO_INLINE Vector larger_of(const Vector& a, const Vector& b) { return a > b ? a : b; }

OCTAVO_INLINE float largest_of(Vector v) {
    v = larger_of(v, __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
    v = larger_of(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15));
    v = larger_of(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    return v[0] > v[1] ? v[0] : v[1];
}

constexpr float reach = 87.0f;

// e^x of x between -87 and 87, and of these bounds beyond.
OCTAVO_INLINE Vector exponential(Vector x) {
    const Vector low = Vector{} - reach, high = Vector{} + reach;
    x = x < low ? low : x;
    x = x > high ? high : x;
    const Exponential found = split_exponential(x);
    return ((found.series * found.rest + 1.0f) * found.rest + 1.0f) * found.power;
}

// e^((value - largest) * factor), and 0 where that is below e^-87.
OCTAVO_INLINE Vector share_of(Vector value, float largest, float factor) {
    const Vector x = (value - largest) * factor, share = exponential(x);
    return x < Vector{} - reach ? Vector{} : share;
}

OCTAVO_INLINE float norm_scale(const float* x, std::size_t width, float epsilon) {
    Vector partial{};
    std::size_t i = 0;
    for (; i + tile <= width; i += tile) partial += load(x + i) * load(x + i);
    if (i < width) {
        const Vector rest = load_first(x + i, width - i);
        partial += rest * rest;
    }
    return 1.0f / std::sqrt(sum_of(partial) / static_cast<float>(width) + epsilon);
}

void add_norm(std::size_t rows, std::size_t width, float* residual, const float* delta,
              const float* weight, float epsilon, float* out) {
    for (std::size_t row = 0; row < rows; ++row, residual += width, out += width) {
        if (delta != nullptr)
            for (std::size_t i = 0; i < width; ++i) residual[i] += delta[row * width + i];
        const float scale = norm_scale(residual, width, epsilon);
        for (std::size_t i = 0; i < width; ++i) out[i] = weight[i] * (residual[i] * scale);
    }
}

OCTAVO_INLINE Vector gated(Vector x, Vector up) { return x / (exponential(-x) + 1.0f) * up; }

void gate(std::size_t rows, std::size_t inner, const float* found, float* out, std::size_t pitch) {
    for (std::size_t row = 0; row < rows; ++row, found += 2 * inner, out += pitch) {
        std::size_t i = 0;
        for (; i + tile <= inner; i += tile) store(out + i, gated(load(found + i), load(found + inner + i)));
        if (i < inner) {
            const std::size_t left = inner - i;
            store_first(out + i, gated(load_first(found + i, left), load_first(found + inner + i, left)), left);
        }
    }
}

// One head's channels, normalized if there is a weight, turned by its position.
OCTAVO_INLINE void turned(const Attention& layer, const float* head, const float* norm, std::size_t position,
                          float* out) {
    const std::size_t half = layer.width / 2;
    const float *cosine = layer.cosine + position * half, *sine = layer.sine + position * half;
    if (norm != nullptr) {
        const float scale = norm_scale(head, layer.width, layer.epsilon);
        for (std::size_t i = 0; i < layer.width; ++i) out[i] = norm[i] * (head[i] * scale);
    } else {
        std::memcpy(out, head, layer.width * sizeof(float));
    }
    for (std::size_t i = 0; i < half; ++i) {
        const float first = out[i], second = out[i + half];
        out[i] = first * cosine[i] - second * sine[i];
        out[i + half] = second * cosine[i] + first * sine[i];
    }
}

OCTAVO_INLINE void keep(const float* values, std::size_t count, float* to) { std::memcpy(to, values, count * sizeof *to); }
OCTAVO_INLINE void keep(const float* values, std::size_t count, std::uint16_t* to) {
    generic::narrow_bfloat16(values, count, to);
}

// What is read next, of which a part is fetched at a time: processors fetch no further than to the end of a page by themselves.
template <typename Stored>
class Ahead {
public:
    Ahead(const void* from, std::size_t count) : from_(static_cast<const Stored*>(from)), count_(count) {}

    // The line in which `index` lies, unless it is the index before that fetches it.
    OCTAVO_INLINE void fetch(std::size_t index) const {
        if (index * sizeof(Stored) % 64 == 0 && index < count_) __builtin_prefetch(from_ + index, 0, 2);
    }

private:
    const Stored* from_;
    std::size_t count_;
};

// Scores of `count` tiles that follow each other in memory, for `queries` queries, which lie `padded` apart.
template <std::size_t queries, std::size_t count, typename Stored>
OCTAVO_INLINE void score(const float* query, std::size_t padded, const Stored* keys, std::size_t width, float scale,
                         float* scores, const Ahead<Stored>& ahead, std::size_t at) {
    Vector found[queries][count] = {};
    for (std::size_t i = 0; i < width; ++i)
        for (std::size_t j = 0; j < count; ++j) {
            ahead.fetch(at + (i * count + j) * tile);
            const Vector key = load(keys + (j * width + i) * tile);
            for (std::size_t q = 0; q < queries; ++q) found[q][j] = fused(key, query[q * padded + i] - Vector{}, found[q][j]);
        }
    for (std::size_t q = 0; q < queries; ++q)
        for (std::size_t j = 0; j < count; ++j) store(scores + q * span + j * tile, found[q][j] * scale);
}

// Sums of share[t] * value[t] over `tokens`, of count * tile channels, for `queries` queries.
template <std::size_t queries, std::size_t count, typename Stored>
OCTAVO_INLINE void mix(const float* share, const Stored* values, std::size_t tokens, std::size_t padded, float* out,
                       std::size_t pitch, const Ahead<Stored>& ahead) {
    Vector found[queries][count] = {};
    for (std::size_t t = 0; t < tokens; ++t)
        for (std::size_t j = 0; j < count; ++j) {
            ahead.fetch((t * count + j) * tile);
            const Vector value = load(values + t * padded + j * tile);
            for (std::size_t q = 0; q < queries; ++q) found[q][j] = fused(value, share[q * span + t] - Vector{}, found[q][j]);
        }
    for (std::size_t q = 0; q < queries; ++q)
        for (std::size_t j = 0; j < count; ++j) store(out + q * pitch + j * tile, found[q][j]);
}

template <typename Stored>
OCTAVO_INLINE void append_to(const Attention& layer, const float* found, std::size_t shared, std::size_t slot,
                             std::size_t position, float* scratch) {
    const std::size_t width = layer.width, padded = layer.padded, place = slot * layer.shared + shared;
    Stored* const keys = static_cast<Stored*>(layer.keys) + (place * layer.tiles + position / tile) * width * tile + position % tile;
    Stored* const values = static_cast<Stored*>(layer.values) + (place * layer.tiles * tile + position) * padded;
    turned(layer, found + (layer.heads + shared) * width, layer.key_norm, position, scratch);
    // Narrowed where the values go, which are written next.
    for (std::size_t i = 0; i < width; i += tile) {
        const std::size_t count = width - i < tile ? width - i : tile;
        keep(scratch + i, count, values);
        for (std::size_t j = 0; j < count; ++j) keys[(i + j) * tile] = values[j];
    }
    keep(found + (layer.heads + layer.shared + shared) * width, width, values);
    for (std::size_t i = width; i < padded; ++i) values[i] = 0;
}

void append(const Attention& layer, const float* found, std::size_t shared, std::size_t slot, std::size_t position,
            float* scratch) {
    if (layer.narrow)
        append_to<std::uint16_t>(layer, found, shared, slot, position, scratch);
    else
        append_to<float>(layer, found, shared, slot, position, scratch);
}

// Tokens begin to end, within a span, of one slot's keys and values.
template <typename Stored>
struct Seen {
    const Stored *keys, *values;
    std::size_t begin, end;
};

// Those of a tile's tokens that are before `end`.
OCTAVO_INLINE Vector until(std::size_t end, const Vector& seen, const Vector& unseen) {
    constexpr Integers place{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return place < static_cast<std::int32_t>(end) - Integers{} ? seen : unseen;
}

// Shares of each token, not yet divided by their sum, which follows the mixed values after the largest score.
OCTAVO_INLINE void weigh(std::size_t begin, std::size_t end, float* scores, float* largest_and_sum) {
    const std::size_t first = begin / tile * tile, last = (end - 1) / tile * tile;
    const Vector none = -__builtin_inff() - Vector{};
    store(scores + first, until(begin - first, none, load(scores + first)));
    store(scores + last, until(end - last, load(scores + last), none));
    Vector peak = load(scores + first);
    for (std::size_t t = first + tile; t <= last; t += tile) peak = larger_of(load(scores + t), peak);
    const float largest = largest_of(peak);
    Vector sum{};
    for (std::size_t t = first; t <= last; t += tile) {
        const Vector share = share_of(load(scores + t), largest, 1.0f);
        store(scores + t, share);
        sum += share;
    }
    largest_and_sum[0] = largest;
    largest_and_sum[1] = sum_of(sum);
}

template <std::size_t queries, typename Stored>
OCTAVO_INLINE void attend_queries(const Attention& layer, const Seen<Stored>& seen, const Ahead<Stored>& ahead, const float* query,
                                  float* scores, float* partials, std::size_t pitch) {
    const std::size_t width = layer.width, padded = layer.padded, last = (seen.end + tile - 1) / tile;
    const float scale = 1.0f / std::sqrt(static_cast<float>(width));
    const Ahead<Stored> own(seen.values, seen.end * padded);
    std::size_t t = seen.begin / tile;
    const auto some = [&](auto count) OCTAVO_LAMBDA {
        const std::size_t at = t * width * tile;
        score<queries, count>(query, padded, seen.keys + at, width, scale, scores + t * tile, own, at);
    };
    for (; t + 4 <= last; t += 4) some(std::integral_constant<std::size_t, 4>());
    if (last - t == 3) some(std::integral_constant<std::size_t, 3>());
    if (last - t == 2) some(std::integral_constant<std::size_t, 2>());
    if (last - t == 1) some(std::integral_constant<std::size_t, 1>());
    for (std::size_t q = 0; q < queries; ++q) weigh(seen.begin, seen.end, scores + q * span, partials + q * pitch + padded);
    const std::size_t tokens = seen.end - seen.begin;
    const Stored* const from = seen.values + seen.begin * padded;
    std::size_t channel = 0;
    for (; channel + 4 * tile <= padded; channel += 4 * tile)
        mix<queries, 4>(scores + seen.begin, from + channel, tokens, padded, partials + channel, pitch, ahead);
    for (; channel < padded; channel += tile)
        mix<queries, 1>(scores + seen.begin, from + channel, tokens, padded, partials + channel, pitch, ahead);
}

template <typename Stored>
OCTAVO_INLINE void attend_to(const Attention& layer, const float* found, std::size_t shared, std::size_t slot,
                             std::size_t position, std::size_t number, const Stretch& next, float* scratch,
                             float* partials, std::size_t pitch) {
    const std::size_t width = layer.width, padded = layer.padded, share = layer.heads / layer.shared;
    const std::size_t place = slot * layer.shared + shared, start = layer.start(position, number);
    const std::size_t begin = layer.first(position) > start ? layer.first(position) - start : 0;
    const std::size_t end = position + 1 - start < span ? position + 1 - start : span;
    const Seen<Stored> seen{static_cast<const Stored*>(layer.keys) + (place * layer.tiles * tile + start) * width,
                            static_cast<const Stored*>(layer.values) + (place * layer.tiles * tile + start) * padded, begin, end};
    const Ahead<Stored> ahead(next.from, next.count);
    float *query = scratch, *scores = scratch + share * padded;
    for (std::size_t q = 0; q < share; ++q)
        turned(layer, found + (shared * share + q) * width, layer.query_norm, position, query + q * padded);
    for (std::size_t q = 0; q < share;) {
        const std::size_t count = share - q < 4 ? share - q : 4;
        float* const to = partials + q * pitch;
        if (count == 4) attend_queries<4>(layer, seen, ahead, query + q * padded, scores + q * span, to, pitch);
        if (count == 3) attend_queries<3>(layer, seen, ahead, query + q * padded, scores + q * span, to, pitch);
        if (count == 2) attend_queries<2>(layer, seen, ahead, query + q * padded, scores + q * span, to, pitch);
        if (count == 1) attend_queries<1>(layer, seen, ahead, query + q * padded, scores + q * span, to, pitch);
        q += count;
    }
}

void attend(const Attention& layer, const float* found, std::size_t shared, std::size_t slot,
            std::size_t position, std::size_t number, const Stretch& next, float* scratch, float* partials,
            std::size_t pitch) {
    if (layer.narrow)
        attend_to<std::uint16_t>(layer, found, shared, slot, position, number, next, scratch, partials, pitch);
    else
        attend_to<float>(layer, found, shared, slot, position, number, next, scratch, partials, pitch);
}

void merge(const Attention& layer, const float* partials, std::size_t spans, float* out) {
    const std::size_t pitch = layer.partial(), padded = layer.padded;
    float largest = partials[padded];
    for (std::size_t s = 1; s < spans; ++s)
        largest = partials[s * pitch + padded] > largest ? partials[s * pitch + padded] : largest;
    float total = 0;
    for (std::size_t i = 0; i < layer.width; ++i) out[i] = 0;
    for (std::size_t s = 0; s < spans; ++s) {
        const float* const partial = partials + s * pitch;
        const float factor = exponential(Vector{} + (partial[padded] - largest))[0];
        total += partial[padded + 1] * factor;
        for (std::size_t i = 0; i < layer.width; ++i) out[i] += partial[i] * factor;
    }
    for (std::size_t i = 0; i < layer.width; ++i) out[i] /= total;
}

OCTAVO_INLINE Vector load_first(const std::uint16_t* from, std::size_t count) {
    std::uint16_t padded[tile] = {};
    std::memcpy(padded, from, count * sizeof *from);
    return load(padded);
}

template <std::size_t height, std::size_t batch, typename Weight>
OCTAVO_INLINE void dense_block(const Dense& product, const Weight* weight, std::size_t row, std::size_t first) {
    const std::size_t columns = product.columns;
    const float* const inputs = product.inputs + first * columns;
    Vector sums[height][batch] = {};
    std::size_t i = 0;
    for (; i + tile <= columns; i += tile)
        for (std::size_t r = 0; r < height; ++r) {
            const Vector weights = load(weight + r * columns + i);
            for (std::size_t b = 0; b < batch; ++b) sums[r][b] = fused(load(inputs + b * columns + i), weights, sums[r][b]);
        }
    if (i < columns)
        for (std::size_t r = 0; r < height; ++r) {
            const Vector weights = load_first(weight + r * columns + i, columns - i);
            for (std::size_t b = 0; b < batch; ++b)
                sums[r][b] = fused(load_first(inputs + b * columns + i, columns - i), weights, sums[r][b]);
        }
    for (std::size_t r = 0; r < height; ++r)
        for (std::size_t b = 0; b < batch; ++b) {
            const float sum = sum_of(sums[r][b]);
            product.outputs[(first + b) * product.rows + row + r] =
                product.bias == nullptr ? sum : sum + product.bias[row + r];
        }
}

template <std::size_t height, typename Weight>
OCTAVO_INLINE void dense_rows(const Dense& product, const Weight* weight, std::size_t row, std::size_t batch) {
    std::size_t b = 0;
    for (; b + 4 <= batch; b += 4) dense_block<height, 4>(product, weight, row, b);
    for (; b < batch; ++b) dense_block<height, 1>(product, weight, row, b);
}

template <typename Weight>
OCTAVO_INLINE void dense_range(const Dense& product, std::size_t begin, std::size_t end, std::size_t batch) {
    const auto* const weight = static_cast<const Weight*>(product.weight);
    std::size_t row = begin;
    for (; row + 4 <= end; row += 4) dense_rows<4>(product, weight + row * product.columns, row, batch);
    for (; row < end; ++row) dense_rows<1>(product, weight + row * product.columns, row, batch);
}

void dense(const Dense& product, std::size_t begin, std::size_t end, std::size_t batch) {
    if (product.narrow)
        dense_range<std::uint16_t>(product, begin, end, batch);
    else
        dense_range<float>(product, begin, end, batch);
}

void find_largest(const float* values, std::size_t count, float* largest, std::size_t* place) {
    Vector peak = Vector{} - __builtin_inff(), odd{};
    std::size_t i = 0;
    for (; i + tile <= count; i += tile) {
        const Vector next = load(values + i);
        peak = next > peak ? next : peak;
        odd += next * 0.0f;  // NaN, or infinities, of which one is larger than all else
    }
    float found = largest_of(peak);
    bool numbers = sum_of(odd) == 0;
    for (std::size_t j = i; j < count; ++j) {
        found = values[j] > found ? values[j] : found;
        numbers &= values[j] * 0.0f == 0;
    }
    if (!numbers)
        for (std::size_t j = 0; j < count; ++j)
            if (values[j] != values[j]) return *largest = values[j], *place = j, void();
    for (i = 0; i + tile <= count; i += tile) {
        const Integers equal = load(values + i) == found;
        std::int32_t any = 0;
        for (std::size_t j = 0; j < tile; ++j) any |= equal[j];
        if (any != 0) break;
    }
    while (i + 1 < count && values[i] != found) ++i;
    *largest = found, *place = i;
}

float shares(const float* values, std::size_t count, float largest, float factor, float* out) {
    Vector partial{};
    std::size_t i = 0;
    for (; i + tile <= count; i += tile) {
        const Vector share = share_of(load(values + i), largest, factor);
        store(out + i, share);
        partial += share;
    }
    if (i < count) {
        store_first(out + i, share_of(load_first(values + i, count - i), largest, factor), count - i);
        partial += load_first(out + i, count - i);
    }
    return sum_of(partial);
}

constexpr DecodingLoops decoding_loops{add_norm, append, attend, merge, gate, find_largest, shares, dense};

}  // namespace
}  // namespace octavo
