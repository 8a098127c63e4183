#include "chunks_avx512.hpp"

#if OCTAVO_X86

#include <type_traits>

// One target for all, so that functions inline into each other. The compiler never takes to bfloat16 by itself, so that
// what is done in float32 runs without.
#define OCTAVO_LANES __attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi,avx512bf16")))

namespace octavo {
namespace {

// Look-ups of the low bits of each lane in float32: a table of 16 or 32 entries is one instruction.
template <int width>
struct Wide {
    static constexpr int registers = width <= 4 ? 1 : width <= 7 ? 1 << (width - 4) : 0;
    __m512 table[registers == 0 ? 1 : registers];
    const float* memory;

    OCTAVO_LANES OCTAVO_INLINE explicit Wide(const float* values) : memory(values) {
        for (int i = 0; i < registers; ++i) table[i] = _mm512_loadu_ps(values + 16 * i);
    }

    OCTAVO_LANES OCTAVO_INLINE __m512 operator()(__m512i word) const {
        if constexpr (width <= 4) {
            return _mm512_permutexvar_ps(word, table[0]);
        } else if constexpr (width == 8) {
            return _mm512_i32gather_ps(_mm512_and_si512(word, _mm512_set1_epi32(255)), memory, 4);
        } else {
            __m512 found = _mm512_permutex2var_ps(table[0], word, table[1]);
            if constexpr (width >= 6) {
                const __mmask16 second = _mm512_test_epi32_mask(word, _mm512_set1_epi32(32));
                found = _mm512_mask_mov_ps(found, second, _mm512_permutex2var_ps(table[2], word, table[3]));
                if constexpr (width == 7) {
                    __m512 upper = _mm512_permutex2var_ps(table[4], word, table[5]);
                    upper = _mm512_mask_mov_ps(upper, second, _mm512_permutex2var_ps(table[6], word, table[7]));
                    found = _mm512_mask_mov_ps(found, _mm512_test_epi32_mask(word, _mm512_set1_epi32(64)), upper);
                }
            }
            return found;
        }
    }
};

// The same in bfloat16, 32 lanes, for wide codes: a table of 64 entries is one instruction.
template <int width>
struct Narrow {
    static constexpr int registers = 1 << (width - 5);
    __m512i table[registers];

    OCTAVO_LANES OCTAVO_INLINE explicit Narrow(const std::uint16_t* values) {
        for (int i = 0; i < registers; ++i) table[i] = _mm512_loadu_si512(values + 32 * i);
    }

    OCTAVO_LANES OCTAVO_INLINE __m512i pair(int first, __m512i word) const {
        return _mm512_permutex2var_epi16(table[first], word, table[first + 1]);
    }

    OCTAVO_LANES OCTAVO_INLINE __m512i operator()(__m512i word) const {
        __m512i found = pair(0, word);
        if constexpr (width >= 7) {
            const __mmask32 second = _mm512_test_epi16_mask(word, _mm512_set1_epi16(64));
            found = _mm512_mask_mov_epi16(found, second, pair(2, word));
            if constexpr (width == 8) {
                const __m512i rest = _mm512_mask_mov_epi16(pair(4, word), second, pair(6, word));
                found = _mm512_mask_mov_epi16(found, _mm512_test_epi16_mask(word, _mm512_set1_epi16(128)), rest);
            }
        }
        return found;
    }
};

// A chunk is multiplied step by step; `Steps` does one for float32 or for bfloat16.
template <int width, int batch>
struct WideSteps {
    static constexpr bool narrow = false;
    Wide<width> table;
    Spread spread;

    OCTAVO_LANES OCTAVO_INLINE explicit WideSteps(const LanesCodes& codes)
        : table(codes.values), spread(spread_of<width, false>()) {}

    OCTAVO_LANES OCTAVO_INLINE void run(__m512i word, const float* x, std::size_t pitch, __m512* sums) const {
        constexpr std::size_t steps = lane_span(width);
#pragma GCC unroll 32
        for (std::size_t step = 0; step < steps; ++step) {
            const __m512 value = table(word);
            for (int b = 0; b < batch; ++b) {
                const __m512 inputs = _mm512_load_ps(x + static_cast<std::size_t>(b) * pitch + 16 * step);
                sums[b] = _mm512_fmadd_ps(value, inputs, sums[b]);
            }
            word = _mm512_srli_epi32(word, width);
        }
    }
};

template <int width, int batch>
struct NarrowSteps {
    static constexpr bool narrow = true;
    Narrow<width> table;
    Spread spread;

    OCTAVO_LANES OCTAVO_INLINE explicit NarrowSteps(const LanesCodes& codes)
        : table(codes.narrow), spread(spread_of<width, true>()) {}

    OCTAVO_LANES OCTAVO_INLINE void run(__m512i word, const float* x, std::size_t pitch, __m512* sums) const {
        constexpr std::size_t steps = lane_span(width) / 2;
#pragma GCC unroll 16
        for (std::size_t step = 0; step < steps; ++step) {
            const __m512bh value = reinterpret_cast<__m512bh>(table(word));
            for (int b = 0; b < batch; ++b) {
                const __m512i pairs = _mm512_load_si512(x + static_cast<std::size_t>(b) * pitch + 16 * step);
                sums[b] = _mm512_dpbf16_ps(sums[b], value, reinterpret_cast<__m512bh>(pairs));
            }
            word = _mm512_srli_epi16(word, width);
        }
    }
};

// Rows times `batch` vectors. Scale: of blocks, or void where a row has one, which multiplies the row's sum. Chunks are
// summed up each by itself, so that none waits for the one before, and an output does not depend on `batch`.
template <typename Steps, int width, int batch, typename Scale>
OCTAVO_LANES void add_rows(const LanesCodes& codes, const Task& task, std::size_t vector) {
    constexpr bool one_block = std::is_void_v<Scale>;
    constexpr std::size_t bytes = lanes_in_chunk * lane_span(width) * width / 8;
    constexpr std::size_t each = lanes_in_chunk * lane_span(width) / (Steps::narrow ? 2 : 1);
    constexpr __mmask64 whole = ~__mmask64{0} >> (64 - bytes);
    const Steps steps(codes);
    const std::size_t last = codes.chunks() - 1;
    const __mmask64 rest = ~__mmask64{0} >> (64 - (codes.row_bytes - last * bytes));
    const float* const x = task.inputs + vector * task.pitch;
    const std::size_t height = task.end - task.begin, vector_sums = height * lanes_in_chunk;
    for (std::size_t row = 0; row < height; ++row) {
        const std::uint8_t* const from = codes.codes + (task.begin + row) * codes.row_bytes;
        float* const sums = task.sums + (vector * height + row) * lanes_in_chunk;
        // In units of the row's scale or in those of the weights.
        __m512 totals[batch];
        for (int b = 0; b < batch; ++b)
            totals[b] = one_block ? _mm512_setzero_ps() : _mm512_load_ps(sums + static_cast<std::size_t>(b) * vector_sums);
        const auto add = [&](std::size_t chunk, __mmask64 present) OCTAVO_LANES OCTAVO_LAMBDA {
            const __m512i word = loaded<width, Steps::narrow>(from + chunk * bytes, present, steps.spread);
            fetch_ahead(from + chunk * bytes);
            __m512 parts[batch];
            for (int b = 0; b < batch; ++b) parts[b] = _mm512_setzero_ps();
            steps.run(word, x + chunk * each, task.pitch, parts);
            if constexpr (one_block) {
                for (int b = 0; b < batch; ++b) totals[b] = _mm512_add_ps(totals[b], parts[b]);
            } else {
                const std::size_t first = codes.scales.shared ? 0 : (task.begin + row) * codes.scales.blocks;
                const __m512 scales = scales_of(codes, static_cast<const Scale*>(codes.scales.data) + first, chunk);
                for (int b = 0; b < batch; ++b) totals[b] = _mm512_fmadd_ps(parts[b], scales, totals[b]);
            }
        };
        for (std::size_t chunk = 0; chunk < last; ++chunk) add(chunk, whole);
        add(last, rest);
        for (int b = 0; b < batch; ++b) {
            float* const to = sums + static_cast<std::size_t>(b) * vector_sums;
            if constexpr (one_block) {
                const __m512 scale = _mm512_set1_ps(codes.scales.at(task.begin + row, 0));
                totals[b] = _mm512_fmadd_ps(totals[b], scale, _mm512_load_ps(to));
            }
            _mm512_store_ps(to, totals[b]);
        }
    }
}

template <int width, int batch, typename Scale>
void add_scaled(const LanesCodes& codes, const Task& task, std::size_t vector) {
    if constexpr (width >= least_narrow)
        if (task.order == Order::narrow_lanes)
            return add_rows<NarrowSteps<width, batch>, width, batch, Scale>(codes, task, vector);
    add_rows<WideSteps<width, batch>, width, batch, Scale>(codes, task, vector);
}

OCTAVO_LANES void arrange_wide(std::size_t span, std::size_t chunks, const float* plain, float* out) {
    const __m512i lanes = each_lane(span);
    for (std::size_t chunk = 0; chunk < chunks; ++chunk, plain += span * lanes_in_chunk)
        for (std::size_t step = 0; step < span; ++step, out += 16)
            _mm512_store_ps(out, _mm512_i32gather_ps(lanes, plain + step, 4));
}

OCTAVO_LANES void arrange_narrow(std::size_t span, std::size_t chunks, const float* plain, float* out) {
    const __m512i lanes = each_lane(span / 2);
    for (std::size_t chunk = 0; chunk < chunks; ++chunk, plain += span * lanes_in_chunk)
        for (std::size_t step = 0; step < span / 2; ++step, out += 16) {
            const __m512 lower = _mm512_i32gather_ps(lanes, plain + step, 4);
            const __m512 upper = _mm512_i32gather_ps(lanes, plain + step + span / 2 * 16, 4);
            _mm512_store_si512(out, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(upper, lower)));
        }
}

}  // namespace

bool lanes_supported(bool narrow) {
    static const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi");
    static const bool pairs = wide && __builtin_cpu_supports("avx512bf16");
    return narrow ? pairs : wide;
}

void lanes_arrange(int width, std::size_t chunks, bool narrow, const float* plain, float* out) {
    return narrow ? arrange_narrow(lane_span(width), chunks, plain, out)
                  : arrange_wide(lane_span(width), chunks, plain, out);
}

OCTAVO_LANES void lanes_sum(const float* sums, std::size_t rows, float* out) {
    const __m512i lane_of_row = _mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15);
    std::size_t row = 0;
    for (; row + 16 <= rows; row += 16) {
        // Halves of lanes are exchanged and added, four times, until each lane has the sum of its row.
        __m512 v[16];
        for (std::size_t i = 0; i < 16; ++i) v[i] = _mm512_load_ps(sums + (row + i) * lanes_in_chunk);
        for (int i = 0; i < 8; ++i)
            v[i] = _mm512_add_ps(_mm512_shuffle_f32x4(v[i], v[i + 8], 0x44), _mm512_shuffle_f32x4(v[i], v[i + 8], 0xEE));
        for (int i = 0; i < 4; ++i)
            v[i] = _mm512_add_ps(_mm512_shuffle_f32x4(v[i], v[i + 4], 0x88), _mm512_shuffle_f32x4(v[i], v[i + 4], 0xDD));
        for (int i = 0; i < 2; ++i)
            v[i] = _mm512_add_ps(_mm512_shuffle_ps(v[i], v[i + 2], 0x44), _mm512_shuffle_ps(v[i], v[i + 2], 0xEE));
        const __m512 found = _mm512_add_ps(_mm512_shuffle_ps(v[0], v[1], 0x88), _mm512_shuffle_ps(v[0], v[1], 0xDD));
        _mm512_storeu_ps(out + row, _mm512_add_ps(_mm512_loadu_ps(out + row), _mm512_permutexvar_ps(lane_of_row, found)));
    }
    for (; row < rows; ++row) out[row] += _mm512_reduce_add_ps(_mm512_load_ps(sums + row * lanes_in_chunk));
}

void lanes_add(const LanesCodes& codes, const Task& task) {
    with_width(codes.width, [&]<int width>() {
        in_batches(codes, task, [&]<int batch, typename Scale>(std::size_t vector) {
            add_scaled<width, batch, Scale>(codes, task, vector);
        });
    });
}

}  // namespace octavo

#endif
