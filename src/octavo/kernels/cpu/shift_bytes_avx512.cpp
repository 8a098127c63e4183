#include "shift_bytes.hpp"

#if OCTAVO_X86

#include <cstring>

#include "chunks_avx512.hpp"

#define OCTAVO_BYTES __attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")))

namespace octavo {
namespace {

constexpr std::size_t together = 4;  // columns whose products are summed by one instruction

// Bytes that a stream is fetched ahead: there are more of them than a processor keeps in view.
constexpr std::size_t ahead = 128;

// Four bytes, or a number, in every lane.
OCTAVO_BYTES OCTAVO_INLINE __m512i in_all_lanes(const float* from) {
    int bits;
    std::memcpy(&bits, from, sizeof bits);
    return _mm512_set1_epi32(bits);
}

struct Constants {
    __m512i bytes;           // qword q begins with the byte where row 8 q begins
    __m512i even, odd;       // bits where its windows begin, in words
    __m512i even_up, odd_up; // the same, moved up by the mixer's shift
    __m512i upper;           // what is left of a window when it is shifted
    __m512i factor;
    __m512i means[4], ends, first_end;
};

OCTAVO_BYTES Constants constants_of(const ShiftBytes& trellis) {
    alignas(64) std::uint8_t bytes[64], offsets[4][64];
    for (std::size_t i = 0; i < 64; ++i) {
        const std::size_t row = i % 8 / 2, begin = 2 * row * trellis.bits + i % 2 * 8;
        bytes[i] = static_cast<std::uint8_t>(i / 8 * trellis.bits + i % 8);
        for (std::size_t odd = 0; odd < 2; ++odd) {
            offsets[odd][i] = static_cast<std::uint8_t>(begin + odd * trellis.bits);
            offsets[2 + odd][i] = static_cast<std::uint8_t>(begin + odd * trellis.bits + trellis.mixer.shift);
        }
    }
    Constants found;
    found.bytes = _mm512_load_si512(bytes);
    found.even = _mm512_load_si512(offsets[0]), found.odd = _mm512_load_si512(offsets[1]);
    found.even_up = _mm512_load_si512(offsets[2]), found.odd_up = _mm512_load_si512(offsets[3]);
    found.upper = _mm512_set1_epi16(static_cast<short>(((1u << byte_window) - 1) >> trellis.mixer.shift));
    // Times 16, so that the product's 12 bits are the upper ones of a word and all above them is lost.
    found.factor = _mm512_set1_epi16(static_cast<short>(trellis.mixer.factor << 4));
    for (int i = 0; i < 4; ++i) found.means[i] = _mm512_loadu_si512(trellis.means + 64 * i);
    found.ends = _mm512_loadu_si512(trellis.ends);
    found.first_end = _mm512_set1_epi8(static_cast<char>(trellis.first_end));
    return found;
}

// The bytes of the values of 64 rows.
template <bool shifted>
OCTAVO_BYTES OCTAVO_INLINE __m512i values_of(const Constants& constants, __m512i stream) {
    constexpr __mmask64 upper_bytes = 0xAAAAAAAAAAAAAAAA;
    const __m512i qwords = _mm512_permutexvar_epi8(constants.bytes, stream);
    __m512i even = _mm512_multishift_epi64_epi8(constants.even, qwords);
    __m512i odd = _mm512_multishift_epi64_epi8(constants.odd, qwords);
    if constexpr (shifted) {
        constexpr int first_xor_second_and_third = 0x78;
        even = _mm512_ternarylogic_epi32(even, _mm512_multishift_epi64_epi8(constants.even_up, qwords), constants.upper,
                                         first_xor_second_and_third);
        odd = _mm512_ternarylogic_epi32(odd, _mm512_multishift_epi64_epi8(constants.odd_up, qwords), constants.upper,
                                        first_xor_second_and_third);
    }
    even = _mm512_mullo_epi16(even, constants.factor);
    odd = _mm512_mullo_epi16(odd, constants.factor);
    // The upper eight of twelve bits, and the lower eight.
    const __m512i cell = _mm512_mask_mov_epi8(_mm512_srli_epi16(even, 8), upper_bytes, odd);
    const __m512i place = _mm512_mask_mov_epi8(_mm512_srli_epi16(even, 4), upper_bytes, _mm512_slli_epi16(odd, 4));
    const __m512i low = _mm512_permutex2var_epi8(constants.means[0], cell, constants.means[1]);
    const __m512i high = _mm512_permutex2var_epi8(constants.means[2], cell, constants.means[3]);
    const __m512i mean = _mm512_mask_mov_epi8(low, _mm512_movepi8_mask(cell), high);
    const __mmask64 end = _mm512_cmplt_epu8_mask(_mm512_sub_epi8(cell, constants.first_end), _mm512_set1_epi8(2));
    return _mm512_mask_permutexvar_epi8(mean, end, place, constants.ends);
}

template <int batch, bool shifted>
OCTAVO_BYTES void add_rows(const Constants& constants, const std::uint8_t* streams, std::size_t stream_bytes,
                           __mmask64 readable, std::size_t columns, const float* inputs, const float* scales,
                           std::size_t inputs_pitch, float* sums, std::size_t pitch) {
    __m512 totals[batch][together];
    for (auto& row : totals)
        for (__m512& total : row) total = _mm512_setzero_ps();
    for (std::size_t column = 0; column < columns; scales += 2) {
        __m512i parts[batch][together];
        for (int b = 0; b < batch; ++b)
            for (__m512i& part : parts[b])
                part = in_all_lanes(scales + static_cast<std::size_t>(b) * inputs_pitch + 1);
        for (std::size_t end = column + inputs_in_block; column < end; column += together) {
            if (column >= columns) {
                column = end;
                break;
            }
            __m512i value[together];
            for (std::size_t j = 0; j < together; ++j) {
                // Inputs beyond the last are zero.
                const std::size_t own = column + j < columns ? column + j : columns - 1;
                const std::uint8_t* const stream = streams + own * stream_bytes;
                value[j] = values_of<shifted>(constants, _mm512_maskz_loadu_epi8(readable, stream));
                _mm_prefetch(stream + ahead, _MM_HINT_T0);
            }
            // Four bytes of a row, column by column: of rows 16 i + 4 j to + 3 in lane i of the j-th register.
            const __m512i a = _mm512_unpacklo_epi8(value[0], value[1]), b = _mm512_unpackhi_epi8(value[0], value[1]);
            const __m512i c = _mm512_unpacklo_epi8(value[2], value[3]), d = _mm512_unpackhi_epi8(value[2], value[3]);
            const __m512i rows[together] = {_mm512_unpacklo_epi16(a, c), _mm512_unpackhi_epi16(a, c),
                                            _mm512_unpacklo_epi16(b, d), _mm512_unpackhi_epi16(b, d)};
            for (int v = 0; v < batch; ++v) {
                const __m512i x = in_all_lanes(inputs + static_cast<std::size_t>(v) * inputs_pitch + column / together);
                for (std::size_t j = 0; j < together; ++j) parts[v][j] = _mm512_dpbusd_epi32(parts[v][j], rows[j], x);
            }
        }
        for (int b = 0; b < batch; ++b) {
            const __m512 scale = _mm512_set1_ps(scales[static_cast<std::size_t>(b) * inputs_pitch]);
            for (std::size_t j = 0; j < together; ++j)
                totals[b][j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(parts[b][j]), scale, totals[b][j]);
        }
    }
    for (int b = 0; b < batch; ++b)
        for (std::size_t j = 0; j < together; ++j) {
            float* const to = sums + static_cast<std::size_t>(b) * pitch + 4 * j;
            const auto add = [&](std::size_t row, __m128 found) __attribute__((always_inline)) OCTAVO_BYTES {
                _mm_storeu_ps(to + row, _mm_add_ps(_mm_loadu_ps(to + row), found));
            };
            add(0, _mm512_extractf32x4_ps(totals[b][j], 0));
            add(16, _mm512_extractf32x4_ps(totals[b][j], 1));
            add(32, _mm512_extractf32x4_ps(totals[b][j], 2));
            add(48, _mm512_extractf32x4_ps(totals[b][j], 3));
        }
}

template <int batch>
OCTAVO_BYTES void add_vectors(bool shifted, const Constants& constants, const std::uint8_t* streams,
                              std::size_t stream_bytes, __mmask64 readable, std::size_t columns, const float* inputs,
                              const float* scales, std::size_t inputs_pitch, float* sums, std::size_t pitch) {
    if (shifted)
        add_rows<batch, true>(constants, streams, stream_bytes, readable, columns, inputs, scales, inputs_pitch, sums,
                              pitch);
    else
        add_rows<batch, false>(constants, streams, stream_bytes, readable, columns, inputs, scales, inputs_pitch, sums,
                               pitch);
}

}  // namespace

OCTAVO_BYTES void shift_bytes_sums(const ShiftBytes& trellis, const std::uint8_t* streams, std::size_t stream_bytes,
                                   std::size_t present, std::size_t columns, std::size_t rows, const float* inputs,
                                   const float* scales, std::size_t inputs_pitch, std::size_t batch, float* sums,
                                   std::size_t pitch) {
    const Constants constants = constants_of(trellis);
    const bool shifted = trellis.mixer.shift < byte_window;
    for (std::size_t row = 0, at = 0; row < rows; row += byte_rows, at += byte_rows * trellis.bits / 8) {
        const __mmask64 readable = present - at >= 64 ? ~__mmask64{0} : (__mmask64{1} << (present - at)) - 1;
        std::size_t vector = 0;
        const auto add = [&]<int count>() OCTAVO_BYTES {
            for (; vector + count <= batch; vector += count)
                add_vectors<count>(shifted, constants, streams + at, stream_bytes, readable, columns,
                                   inputs + vector * inputs_pitch, scales + vector * inputs_pitch, inputs_pitch,
                                   sums + vector * pitch + row, pitch);
        };
        add.template operator()<4>();
        add.template operator()<2>();
        add.template operator()<1>();
    }
}

}  // namespace octavo

#endif
