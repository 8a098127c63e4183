// What loops over chunks of codes share with AVX-512: how codes and scales get into the lanes of a register.
#pragma once

#include "lanes.hpp"

#if OCTAVO_X86

// GCC before 13 takes the undefined operand inside its own intrinsics for a mistake (its bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include "generic.hpp"

#define OCTAVO_CHUNKS __attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi")))

namespace octavo {

constexpr bool whole_lanes(int width) { return width == 1 || width == 2 || width == 4 || width == 8; }

// Where the bits of lane i begin: a byte of the chunk, and a bit of it.
struct Spread {
    __m512i bytes, shifts;
};

template <int width, bool narrow>
OCTAVO_CHUNKS OCTAVO_INLINE Spread spread_of() {
    alignas(64) std::uint8_t bytes[64];
    alignas(64) std::uint16_t shifts[32];
    constexpr int size = narrow ? 2 : 4;
    constexpr int bits = static_cast<int>(lane_span(width)) * width * size / 4;
    for (int lane = 0; lane < 64 / size; ++lane) {
        for (int byte = 0; byte < size; ++byte)
            bytes[lane * size + byte] = static_cast<std::uint8_t>(lane * bits / 8 + byte);
        shifts[lane * size / 2] = static_cast<std::uint16_t>(lane * bits % 8);
        if (!narrow) shifts[2 * lane + 1] = 0;
    }
    return {_mm512_load_si512(bytes), _mm512_load_si512(shifts)};
}

// The codes of a chunk, each lane's in its low bits.
template <int width, bool narrow>
OCTAVO_CHUNKS OCTAVO_INLINE __m512i loaded(const std::uint8_t* from, __mmask64 present, const Spread& spread) {
    __m512i word = _mm512_maskz_loadu_epi8(present, from);
    if constexpr (!whole_lanes(width)) {
        word = _mm512_permutexvar_epi8(spread.bytes, word);
        word = narrow ? _mm512_srlv_epi16(word, spread.shifts) : _mm512_srlv_epi32(word, spread.shifts);
    }
    return word;
}

// Processors fetch no further than to the end of a page by themselves, and wait there for the memory.
OCTAVO_INLINE void fetch_ahead(const std::uint8_t* from) { _mm_prefetch(from + 4096, _MM_HINT_T1); }

// The scales that stand at some places, a lane each; of narrow ones places are in the upper half of lanes.
template <typename Scale>
OCTAVO_CHUNKS OCTAVO_INLINE __m512 placed_scales(const Scale* from, __mmask16 present, __m512i places) {
    if constexpr (sizeof(Scale) == 2) {
        // The upper half of each lane is a bfloat16, the lower one zero.
        const __m256i found = _mm256_maskz_loadu_epi16(present, from);
        return _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xAAAAAAAA, places, _mm512_castsi256_si512(found)));
    } else {
        return _mm512_permutexvar_ps(places, _mm512_maskz_loadu_ps(present, from));
    }
}

// The scales of a chunk's lanes. `from` are those of the row's blocks.
template <typename Scale>
OCTAVO_CHUNKS OCTAVO_INLINE __m512 scales_of(const LanesCodes& codes, const Scale* from, std::size_t chunk) {
    const __m512i places = _mm512_loadu_si512(codes.place + lanes_in_chunk * chunk);
    return placed_scales(from + codes.first[chunk], codes.present[chunk], places);
}

OCTAVO_CHUNKS OCTAVO_INLINE __m512i each_lane(std::size_t span) {
    return _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                              _mm512_set1_epi32(static_cast<int>(span)));
}

}  // namespace octavo

#endif
