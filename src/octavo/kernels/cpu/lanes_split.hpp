// Products with packed codes in lanes (see lanes.hpp) where a register holds only some of a chunk's sixteen: the loops of
// AVX2 and of NEON, each compiled in a file of its own. That file first says what a register is:
//
//   OCTAVO_SPLIT                          what functions are compiled for
//   register_lanes, Floats                lanes of a register of float32, and such a register
//   zeros, load, added, fused             of registers of float32; fused(a, b, c) = a * b + c, rounded once
//   picked<shift>(from, places)           the number from[place >> shift] for each lane; none of these is register_lanes or
//                                         more beyond the first
//   total(registers)                      the sum of the sixteen lanes of a chunk
//   Steps<width>(values)                  with multiply<batch>(from, piece, x, pitch, sums): adds to each of the `batch`
//                                         sums the products of one register's codes
#pragma once

#include <cstring>
#include <type_traits>
#include <vector>

#include "generic.hpp"
#include "lane_cuts.hpp"
#include "lanes.hpp"

namespace octavo {
namespace {

// Registers of a chunk.
constexpr std::size_t pieces = lanes_in_chunk / register_lanes;

// Where the last chunk of a row is read: codes beyond the row are zero, and no byte beyond the codes of all rows is read.
struct Rest {
    std::uint64_t kept[most_chunk_bytes / 8];
    std::size_t count;

    explicit Rest(std::size_t bytes) : count(bytes) {
        std::memset(kept, 0, sizeof kept);
        std::memset(kept, 255, bytes);
    }

    OCTAVO_SPLIT OCTAVO_INLINE void copy(const std::uint8_t* from, const std::uint8_t* end, std::uint8_t* to) const {
        if (end - from < static_cast<std::ptrdiff_t>(most_chunk_bytes)) {
            std::memset(to, 0, most_chunk_bytes);
            std::memcpy(to, from, count);
            return;
        }
        std::uint64_t words[most_chunk_bytes / 8];
        std::memcpy(words, from, sizeof words);
        for (std::size_t i = 0; i < most_chunk_bytes / 8; ++i) words[i] &= kept[i];
        std::memcpy(to, words, sizeof words);
    }
};

OCTAVO_SPLIT OCTAVO_INLINE void widened(const float* from, std::size_t count, float* to) {
    std::memcpy(to, from, count * sizeof(float));
}

OCTAVO_SPLIT OCTAVO_INLINE void widened(const std::uint16_t* from, std::size_t count, float* to) {
    generic::widen_bfloat16(from, count, to);
}

// Rows times `batch` vectors. Scale: of blocks, or void where a row has one, which multiplies the row's sum. Chunks are
// summed up each by itself, so that none waits for the one before, and an output does not depend on `batch`.
// `row_scales` has room for those of a row, and may be read up to sixteen beyond.
template <int width, int batch, typename Scale>
OCTAVO_SPLIT void add_rows(const LanesCodes& codes, const Task& task, std::size_t vector, float* row_scales) {
    constexpr bool one_block = std::is_void_v<Scale>;
    constexpr std::size_t bytes = chunk_bytes(width), each = lanes_in_chunk * lane_span(width);
    const Steps<width> steps(codes.values);
    const std::size_t last = codes.chunks() - 1;
    const Rest rest(codes.row_bytes - last * bytes);
    const float* const x = task.inputs + vector * task.pitch;
    float* const out = task.out + vector * task.out_pitch;
    for (std::size_t row = task.begin; row < task.end; ++row) {
        const std::uint8_t* const from = codes.codes + row * codes.row_bytes;
        if constexpr (!one_block)
            if (row == task.begin || !codes.scales.shared) {
                const std::size_t first = codes.scales.shared ? 0 : row * codes.scales.blocks;
                widened(static_cast<const Scale*>(codes.scales.data) + first, codes.scales.blocks, row_scales);
            }
        // In units of the row's scale or in those of the weights.
        Floats totals[batch][pieces];
        for (int b = 0; b < batch; ++b)
            for (std::size_t piece = 0; piece < pieces; ++piece) totals[b][piece] = zeros();
        alignas(32) std::uint8_t padded[most_chunk_bytes];
        const std::uint8_t* tail = from + last * bytes;
        if (rest.count != bytes) rest.copy(tail, codes.end, padded), tail = padded;
        for (std::size_t chunk = 0; chunk <= last; ++chunk) {
            const std::uint8_t* const at = chunk == last ? tail : from + chunk * bytes;
            // Processors fetch no further than to the end of a page by themselves, and wait there for the memory.
            __builtin_prefetch(at + 4096, 0, 2);
#pragma GCC unroll 2
            for (std::size_t piece = 0; piece < pieces; ++piece) {
                Floats sums[batch];
                for (int b = 0; b < batch; ++b) sums[b] = zeros();
                steps.template multiply<batch>(at, piece, x + chunk * each + piece * register_lanes, task.pitch, sums);
                if constexpr (one_block) {
                    for (int b = 0; b < batch; ++b) totals[b][piece] = added(totals[b][piece], sums[b]);
                } else {
                    const std::int32_t* const places = codes.place + lanes_in_chunk * chunk + piece * register_lanes;
                    const Floats scales = picked<sizeof(Scale) == 2 ? 16 : 0>(row_scales + codes.first[chunk], places);
                    for (int b = 0; b < batch; ++b) totals[b][piece] = fused(sums[b], scales, totals[b][piece]);
                }
            }
        }
        const float scale = one_block ? codes.scales.at(row, 0) : 1.0f;
        for (int b = 0; b < batch; ++b) out[static_cast<std::size_t>(b) * task.out_pitch + row] += total(totals[b]) * scale;
    }
}

}  // namespace

void split_lanes_arrange(int width, std::size_t chunks, const float* plain, float* out) {
    const std::size_t span = lane_span(width);
    for (std::size_t chunk = 0; chunk < chunks; ++chunk, plain += span * lanes_in_chunk)
        for (std::size_t step = 0; step < span; ++step, out += lanes_in_chunk)
            for (std::size_t lane = 0; lane < lanes_in_chunk; ++lane) out[lane] = plain[lane * span + step];
}

void split_lanes_add(const LanesCodes& codes, const Task& task) {
    static thread_local std::vector<float> row_scales;
    if (codes.scales.blocks > 1 && row_scales.size() < codes.scales.blocks + lanes_in_chunk)
        row_scales.resize(codes.scales.blocks + lanes_in_chunk);
    with_width(codes.width, [&]<int width>() {
        in_batches(codes, task, [&]<int batch, typename Scale>(std::size_t vector) {
            add_rows<width, batch, Scale>(codes, task, vector, row_scales.data());
        });
    });
}

}  // namespace octavo
