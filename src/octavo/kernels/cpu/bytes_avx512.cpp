#include "bytes.hpp"

#if OCTAVO_X86

#include <cstring>
#include <type_traits>

#include "lookup_avx512.hpp"

#define OCTAVO_BYTES __attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")))

namespace octavo {
namespace {

constexpr std::size_t products_in_lane = 4;

constexpr std::size_t steps_of(int width) { return (lane_span(width) + products_in_lane - 1) / products_in_lane; }

// Floats of a chunk's inputs: a byte each, then the scale of every lane, and what its sum begins with.
constexpr std::size_t inputs_of(int width) { return 16 * steps_of(width) + 2 * lanes_in_chunk; }

// The code of a lane that meets byte `byte` of step `step`. Codes of 1, 2 and 4 bits are reached by shifting the whole
// lane, so that the four bytes of a step lie a byte apart.
constexpr std::size_t code_of(int width, std::size_t step, std::size_t byte) {
    const std::size_t apart = whole_lanes(width) ? 8 / static_cast<std::size_t>(width) : 1;
    return apart == 1 ? products_in_lane * step + byte : apart * byte + step;
}

// The codes of every step in the low bits of bytes. What lies above them is left for the look-up to ignore.
template <int width>
struct Indices {
    static constexpr bool shifted = whole_lanes(width);
    __m512i offsets[shifted ? 1 : steps_of(width)];

    OCTAVO_BYTES OCTAVO_INLINE Indices() {
        if constexpr (!shifted) {
            alignas(64) std::uint8_t bits[64];
            for (std::size_t step = 0; step < steps_of(width); ++step) {
                for (std::size_t i = 0; i < 64; ++i) {
                    const std::size_t code = products_in_lane * step + i % 4;
                    bits[i] = static_cast<std::uint8_t>(i % 8 / 4 * 32 + (code < lane_span(width) ? code * width : 0));
                }
                offsets[step] = _mm512_load_si512(bits);
            }
        }
    }

    OCTAVO_BYTES OCTAVO_INLINE __m512i operator()(__m512i word, std::size_t step) const {
        if constexpr (shifted)
            return _mm512_srli_epi32(word, static_cast<unsigned>(step) * width);
        else
            return _mm512_multishift_epi64_epi8(offsets[step], word);
    }
};

// Rows times `batch` vectors. Scale: of blocks, or void where a row has one, which multiplies the row's sum.
template <int width, int batch, typename Scale>
OCTAVO_BYTES void add_rows(const LanesCodes& codes, const Task& task, std::size_t vector) {
    constexpr bool one_block = std::is_void_v<Scale>;
    constexpr std::size_t steps = steps_of(width), each = inputs_of(width);
    constexpr std::size_t bytes = lanes_in_chunk * lane_span(width) * width / 8;
    constexpr __mmask64 whole = ~__mmask64{0} >> (64 - bytes);
    const Spread spread = spread_of<width, false>();
    const Indices<width> indices;
    const Lookup<width> lookup(codes.bytes);
    const std::size_t last = codes.chunks() - 1;
    const __mmask64 rest = ~__mmask64{0} >> (64 - (codes.row_bytes - last * bytes));
    const float* const inputs = task.inputs + vector * task.pitch;
    const std::size_t height = task.end - task.begin, vector_sums = height * lanes_in_chunk;
    for (std::size_t row = 0; row < height; ++row) {
        const std::uint8_t* const from = codes.codes + (task.begin + row) * codes.row_bytes;
        const std::size_t first = codes.scales.shared ? 0 : (task.begin + row) * codes.scales.blocks;
        float* const sums = task.sums + (vector * height + row) * lanes_in_chunk;
        __m512 totals[batch];
        for (int b = 0; b < batch; ++b)
            totals[b] = one_block ? _mm512_setzero_ps() : _mm512_load_ps(sums + static_cast<std::size_t>(b) * vector_sums);
        const auto add = [&](std::size_t chunk, __mmask64 present) __attribute__((always_inline)) OCTAVO_BYTES {
            const __m512i word = loaded<width, false>(from + chunk * bytes, present, spread);
            fetch_ahead(from + chunk * bytes);
            const float* const x = inputs + chunk * each;
            __m512i parts[batch];
            for (int b = 0; b < batch; ++b)
                parts[b] = _mm512_load_si512(x + static_cast<std::size_t>(b) * task.pitch + 16 * steps + lanes_in_chunk);
#pragma GCC unroll 8
            for (std::size_t step = 0; step < steps; ++step) {
                const __m512i value = lookup(indices(word, step));
                for (int b = 0; b < batch; ++b)
                    parts[b] = _mm512_dpbusd_epi32(
                        parts[b], value, _mm512_load_si512(x + static_cast<std::size_t>(b) * task.pitch + 16 * step));
            }
            __m512 scales;
            if constexpr (!one_block)
                scales = scales_of(codes, static_cast<const Scale*>(codes.scales.data) + first, chunk);
            for (int b = 0; b < batch; ++b) {
                __m512 scale = _mm512_load_ps(x + static_cast<std::size_t>(b) * task.pitch + 16 * steps);
                if constexpr (!one_block) scale = _mm512_mul_ps(scale, scales);
                totals[b] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(parts[b]), scale, totals[b]);
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

template <int width>
OCTAVO_BYTES void arrange(std::size_t chunks, const std::int8_t* bytes, const float* scales, float* out) {
    constexpr std::size_t span = lane_span(width), steps = steps_of(width);
    const __m512i lanes = each_lane(span), blocks = _mm512_srli_epi32(lanes, 5);
    static_assert(inputs_in_block == 32);
    for (std::size_t chunk = 0; chunk < chunks; ++chunk, out += inputs_of(width)) {
        const std::int8_t* const from = bytes + chunk * lanes_in_chunk * span;
        __m512i sums = _mm512_setzero_si512();
        for (std::size_t step = 0; step < steps; ++step) {
            __m512i found = _mm512_setzero_si512();
            for (std::size_t byte = 0; byte < products_in_lane; ++byte) {
                const std::size_t code = code_of(width, step, byte);
                if (code >= span) continue;
                const __m512i read = _mm512_i32gather_epi32(lanes, from + code, 1);
                found = _mm512_mask_mov_epi8(found, 0x1111111111111111u << byte,
                                             _mm512_slli_epi32(read, static_cast<unsigned>(8 * byte)));
            }
            _mm512_store_si512(out + 16 * step, found);
            sums = _mm512_dpbusd_epi32(sums, _mm512_set1_epi8(static_cast<char>(middle)), found);
        }
        _mm512_store_ps(out + 16 * steps,
                        _mm512_i32gather_ps(blocks, scales + chunk * lanes_in_chunk * span / inputs_in_block, 4));
        _mm512_store_si512(out + 16 * steps + lanes_in_chunk, _mm512_sub_epi32(_mm512_setzero_si512(), sums));
    }
}

}  // namespace

bool bytes_supported() {
    static const bool supported = lanes_supported(false) && __builtin_cpu_supports("avx512vnni");
    return supported;
}

OCTAVO_BYTES void bytes_narrow(const float* x, std::size_t count, std::size_t block, float unit, std::int8_t* bytes,
                               float* scales) {
    constexpr float most = 127.0f, least = 1e-30f;  // blocks of smaller inputs count as zero: their steps underflow
    for (std::size_t i = 0; i < count; i += block, ++scales) {
        __m512 extremes = _mm512_setzero_ps(), zeros = _mm512_setzero_ps();
        for (std::size_t j = i; j < i + block; j += 16) {
            const __m512 values = _mm512_loadu_ps(x + j);
            extremes = _mm512_max_ps(extremes, _mm512_abs_ps(values));
            zeros = _mm512_fmadd_ps(values, _mm512_setzero_ps(), zeros);
        }
        const float largest = _mm512_reduce_max_ps(extremes);
        const bool finite = _mm512_cmp_ps_mask(zeros, zeros, _CMP_UNORD_Q) == 0;
        const bool some = finite && largest >= least;
        *scales = finite ? (some ? largest / most * unit : 0.0f) : __builtin_nanf("");
        const __m512 factor = _mm512_set1_ps(some ? most / largest : 0.0f);
        for (std::size_t j = i; j < i + block; j += 16) {
            const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + j), factor));
            _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes + j),
                             finite ? _mm512_cvtsepi32_epi8(whole) : _mm_setzero_si128());
        }
    }
}

std::size_t bytes_pitch(int width, std::size_t chunks) { return chunks * inputs_of(width); }

void bytes_arrange(int width, std::size_t chunks, float unit, const float* plain, float* out) {
    static thread_local std::vector<std::int8_t> bytes;
    static thread_local std::vector<float> scales;
    const std::size_t count = chunks * lanes_in_chunk * lane_span(width);
    bytes.resize(std::max(bytes.size(), count + 4));  // whole words are gathered
    scales.resize(std::max(scales.size(), count / inputs_in_block));
    bytes_narrow(plain, count, inputs_in_block, unit, bytes.data(), scales.data());
    with_width(width, [&]<int bits>() { arrange<bits>(chunks, bytes.data(), scales.data(), out); });
}

void bytes_add(const LanesCodes& codes, const Task& task) {
    with_width(codes.width, [&]<int width>() {
        in_batches(codes, task, [&]<int batch, typename Scale>(std::size_t vector) {
            add_rows<width, batch, Scale>(codes, task, vector);
        });
    });
}

}  // namespace octavo

#endif
