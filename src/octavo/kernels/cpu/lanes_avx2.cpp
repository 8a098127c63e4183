// Products with packed codes for AVX2 and FMA (2013 and later).
#include "lanes.hpp"

#if OCTAVO_X86

#include <immintrin.h>

#include "generic.hpp"
#include "lane_cuts.hpp"

#define OCTAVO_SPLIT __attribute__((target("avx2,fma")))

namespace octavo {
namespace {

constexpr std::size_t register_lanes = 8;
using Floats = __m256;

OCTAVO_SPLIT OCTAVO_INLINE Floats zeros() { return _mm256_setzero_ps(); }
OCTAVO_SPLIT OCTAVO_INLINE Floats load(const float* from) { return _mm256_loadu_ps(from); }
OCTAVO_SPLIT OCTAVO_INLINE Floats added(Floats a, Floats b) { return _mm256_add_ps(a, b); }
OCTAVO_SPLIT OCTAVO_INLINE Floats fused(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }

template <int shift>
OCTAVO_SPLIT OCTAVO_INLINE Floats picked(const float* from, const std::int32_t* places) {
    const __m256i found = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(places));
    const std::int32_t first = *places >> shift;
    const __m256i place = _mm256_sub_epi32(_mm256_srli_epi32(found, shift), _mm256_set1_epi32(first));
    return _mm256_permutevar8x32_ps(_mm256_loadu_ps(from + first), place);
}

OCTAVO_SPLIT OCTAVO_INLINE float total(const Floats* registers) {
    const __m256 eight = _mm256_add_ps(registers[0], registers[1]);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

OCTAVO_SPLIT OCTAVO_INLINE __m256i bytes_of(const void* from) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}

// Sixteen bytes, twice.
OCTAVO_SPLIT OCTAVO_INLINE __m256i twice(const void* from) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(from)));
}

template <int batch>
OCTAVO_SPLIT OCTAVO_INLINE void add_products(Floats value, const float* x, std::size_t pitch, Floats* sums) {
    for (int b = 0; b < batch; ++b) sums[b] = fused(value, load(x + static_cast<std::size_t>(b) * pitch), sums[b]);
}

// The codes of eight lanes, each lane's in its low bits.
template <int width>
OCTAVO_SPLIT OCTAVO_INLINE __m256i word_of(const std::uint8_t* from, std::size_t piece) {
    using Cuts = Cut<width>;
    if constexpr (!Cuts::needed) {
        return bytes_of(from + 32 * piece);
    } else {
        static constexpr Cuts cuts;
        const auto quarter = [&](std::size_t number) OCTAVO_SPLIT OCTAVO_LAMBDA {
            return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + Cuts::at(number)));
        };
        __m256i word = _mm256_set_m128i(quarter(2 * piece + 1), quarter(2 * piece));
        word = _mm256_shuffle_epi8(word, bytes_of(cuts.bytes[2 * piece]));
        return Cuts::shifted ? _mm256_srlv_epi32(word, bytes_of(cuts.shifts)) : word;
    }
}

// Tables of up to eight entries are looked up by the low bits of each lane, and those of more than 32 in memory.
template <int width>
struct Steps {
    __m256 table;
    const float* memory;

    OCTAVO_SPLIT OCTAVO_INLINE explicit Steps(const float* values) : table(_mm256_loadu_ps(values)), memory(values) {}

    OCTAVO_SPLIT OCTAVO_INLINE __m256 found(__m256i word) const {
        if constexpr (width <= 2) return _mm256_permutevar_ps(table, word);
        if constexpr (width == 3) return _mm256_permutevar8x32_ps(table, word);
        if constexpr (width > 3)
            return _mm256_i32gather_ps(memory, _mm256_and_si256(word, _mm256_set1_epi32((1 << width) - 1)), 4);
    }

    template <int batch>
    OCTAVO_SPLIT OCTAVO_INLINE void multiply(const std::uint8_t* from, std::size_t piece, const float* x,
                                             std::size_t pitch, Floats* sums) const {
        constexpr std::size_t steps = lane_span(width);
        __m256i word = word_of<width>(from, piece);
#pragma GCC unroll 32
        for (std::size_t step = 0; step < steps; ++step) {
            add_products<batch>(found(word), x + lanes_in_chunk * step, pitch, sums);
            word = _mm256_srli_epi32(word, width);
        }
    }
};

// Tables of 16 or 32 entries are looked up byte by byte: each of the four bytes of a float32 has tables of its own, of
// sixteen bytes.
template <int width>
    requires(width == 4 || width == 5)
struct Steps<width> {
    static constexpr int tables = 1 << (width - 4);
    __m256i table[4][tables];

    OCTAVO_SPLIT OCTAVO_INLINE explicit Steps(const float* values) {
        for (int number = 0; number < tables; ++number)
            for (int byte = 0; byte < 4; ++byte) {
                std::uint8_t plane[16];
                for (int code = 0; code < 16; ++code)
                    plane[code] = reinterpret_cast<const std::uint8_t*>(values + 16 * number + code)[byte];
                table[byte][number] = twice(plane);
            }
    }

    // values[i] of eight lanes for four steps: their codes lie in bytes, the lanes' of a step together.
    OCTAVO_SPLIT OCTAVO_INLINE void look_up(__m256i codes, __m256* values) const {
        __m256i index[tables], plane[4];
        // A byte whose highest bit is set finds zero: of all tables but the code's own.
        for (int number = 0; number < tables; ++number)
            index[number] = tables == 1 ? codes
                                        : _mm256_add_epi8(_mm256_xor_si256(codes, _mm256_set1_epi8(static_cast<char>(16 * number))),
                                                          _mm256_set1_epi8(0x70));
        for (int byte = 0; byte < 4; ++byte) {
            plane[byte] = _mm256_shuffle_epi8(table[byte][0], index[0]);
            for (int number = 1; number < tables; ++number)
                plane[byte] = _mm256_or_si256(plane[byte], _mm256_shuffle_epi8(table[byte][number], index[number]));
        }
        const __m256i low = _mm256_unpacklo_epi8(plane[0], plane[1]), high = _mm256_unpacklo_epi8(plane[2], plane[3]);
        const __m256i next_low = _mm256_unpackhi_epi8(plane[0], plane[1]), next_high = _mm256_unpackhi_epi8(plane[2], plane[3]);
        values[0] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(low, high));
        values[1] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(low, high));
        values[2] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(next_low, next_high));
        values[3] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(next_low, next_high));
    }

    template <int batch>
    OCTAVO_SPLIT OCTAVO_INLINE void multiply(const std::uint8_t* from, std::size_t piece, const float* x,
                                             std::size_t pitch, Floats* sums) const {
        const __m256i word = word_of<width>(from, piece), mask = _mm256_set1_epi8((1 << width) - 1);
        const __m256i steps_together = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,  //
                                                        0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        __m256 values[4];
        if constexpr (width == 4) {
            const __m256i codes = _mm256_shuffle_epi8(word, steps_together);
#pragma GCC unroll 2
            for (std::size_t half = 0; half < 2; ++half) {
                look_up(_mm256_and_si256(half == 0 ? codes : _mm256_srli_epi16(codes, 4), mask), values);
#pragma GCC unroll 4
                for (std::size_t i = 0; i < 4; ++i)
                    add_products<batch>(values[i], x + lanes_in_chunk * (2 * i + half), pitch, sums);
            }
        } else {
            const auto moved = [&](int code) OCTAVO_SPLIT OCTAVO_LAMBDA {
                return _mm256_and_si256(_mm256_slli_epi32(word, code * (8 - width)), _mm256_set1_epi32(((1 << width) - 1) << 8 * code));
            };
            const __m256i codes = _mm256_or_si256(_mm256_or_si256(moved(0), moved(1)), _mm256_or_si256(moved(2), moved(3)));
            look_up(_mm256_shuffle_epi8(codes, steps_together), values);
#pragma GCC unroll 4
            for (std::size_t i = 0; i < 4; ++i) add_products<batch>(values[i], x + lanes_in_chunk * i, pitch, sums);
        }
    }
};

}  // namespace
}  // namespace octavo

#include "lanes_split.hpp"

namespace octavo {

bool split_lanes_supported() {
    static const bool supported = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    return supported;
}

}  // namespace octavo

#endif
