#include "shift_part.hpp"

#if OCTAVO_X86

// GCC before 13 takes the undefined operand inside its own intrinsics for a mistake (its bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include "generic.hpp"

#define OCTAVO_LANES __attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi")))

namespace octavo {
namespace {

constexpr std::size_t vector = 16;
constexpr std::size_t vectors = lanes_rows / vector;

// Where the windows of lanes_rows rows lie in a register that begins with the first.
struct Windows {
    __m512i bytes[vectors];
    __m512i shifts;
    __m512i mask;
};

OCTAVO_LANES OCTAVO_INLINE Windows windows_of(const ShiftTrellis& trellis) {
    alignas(64) std::uint8_t bytes[64];
    alignas(64) std::uint32_t shifts[vector];
    Windows found;
    for (std::size_t group = 0; group < vectors; ++group) {
        for (std::size_t row = 0; row < vector; ++row) {
            const std::size_t at = (group * vector + row) * trellis.bits;
            for (std::size_t byte = 0; byte < 4; ++byte)
                bytes[4 * row + byte] = static_cast<std::uint8_t>(at / 8 + byte);
            shifts[row] = at % 8;  // of every group, for sixteen rows are whole bytes
        }
        found.bytes[group] = _mm512_load_si512(bytes);
    }
    found.shifts = _mm512_load_si512(shifts);
    found.mask = _mm512_set1_epi32(static_cast<int>((1u << trellis.window) - 1));
    return found;
}

OCTAVO_LANES OCTAVO_INLINE __m512 values_of(const Windows& windows, __m512i stream, std::size_t group,
                                            const float* table) {
    const __m512i word = _mm512_srlv_epi32(_mm512_permutexvar_epi8(windows.bytes[group], stream), windows.shifts);
    return _mm512_i32gather_ps(_mm512_and_si512(word, windows.mask), table, 4);
}

// So many columns, of `left` that are to come, share the sums that they load and store.
template <int columns>
OCTAVO_LANES void add_columns(const ShiftTrellis& trellis, const Windows& windows, const std::uint8_t* streams,
                              std::size_t stream_bytes, std::size_t present, std::size_t left, std::size_t rows,
                              const float* inputs, std::size_t inputs_pitch, std::size_t batch, float* sums,
                              std::size_t pitch) {
    const std::size_t unit = lanes_rows * trellis.bits / 8;
    for (std::size_t row = 0, at = 0; row < rows; row += lanes_rows, at += unit) {
        const __mmask64 readable = present - at >= 64 ? ~__mmask64{0} : (__mmask64{1} << (present - at)) - 1;
        __m512i stream[columns];
        for (std::size_t j = 0; j < columns; ++j) {
            stream[j] = _mm512_maskz_loadu_epi8(readable, streams + j * stream_bytes + at);
            // The next columns lie too far off to be fetched unasked.
            if (j + columns < left) _mm_prefetch(streams + (j + columns) * stream_bytes + at, _MM_HINT_T0);
        }
        const std::size_t groups = rows - row >= lanes_rows ? vectors : (rows - row + vector - 1) / vector;
        for (std::size_t group = 0; group < groups; ++group) {
            __m512 value[columns];
            for (int j = 0; j < columns; ++j) value[j] = values_of(windows, stream[j], group, trellis.table);
            for (std::size_t b = 0; b < batch; ++b) {
                float* const to = sums + b * pitch + row + group * vector;
                __m512 sum = _mm512_loadu_ps(to);
                for (int j = 0; j < columns; ++j)
                    sum = _mm512_fmadd_ps(value[j], _mm512_set1_ps(inputs[b * inputs_pitch + static_cast<std::size_t>(j)]),
                                          sum);
                _mm512_storeu_ps(to, sum);
            }
        }
    }
}

}  // namespace

OCTAVO_LANES void shift_sums(const ShiftTrellis& trellis, const std::uint8_t* streams, std::size_t stream_bytes,
                             std::size_t present, std::size_t columns, std::size_t rows, const float* inputs,
                             std::size_t inputs_pitch, std::size_t batch, float* sums, std::size_t pitch) {
    const Windows windows = windows_of(trellis);
    std::size_t column = 0;
    const auto add = [&]<int together>() OCTAVO_LANES {
        for (; column + together <= columns; column += together)
            add_columns<together>(trellis, windows, streams + column * stream_bytes, stream_bytes, present,
                                  columns - column, rows, inputs + column, inputs_pitch, batch, sums, pitch);
    };
    add.template operator()<8>();
    add.template operator()<4>();
    add.template operator()<1>();
}

OCTAVO_LANES void curve_values(const float* curve, const float* places, std::size_t count, float* values) {
    const __m512 from = _mm512_loadu_ps(curve), to = _mm512_loadu_ps(curve + 1);
    for (std::size_t i = 0; i < count; i += vector) {
        const __m512 place = _mm512_loadu_ps(places + i);
        const __m512i knot = _mm512_min_epi32(_mm512_cvttps_epi32(place), _mm512_set1_epi32(15));
        const __m512 share = _mm512_sub_ps(place, _mm512_cvtepi32_ps(knot));
        const __m512 low = _mm512_permutexvar_ps(knot, from), high = _mm512_permutexvar_ps(knot, to);
        _mm512_storeu_ps(values + i, _mm512_fmadd_ps(share, _mm512_sub_ps(high, low), low));
    }
}

}  // namespace octavo

#endif
