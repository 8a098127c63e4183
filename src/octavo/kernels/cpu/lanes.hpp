// Products with packed codes of whole bits whose rows begin with a byte, for AVX-512 with byte permutations, AVX2 and NEON.
//
// A chunk is sixteen runs of `span` consecutive codes, one a 32-bit lane: a register of AVX-512. Its lowest codes are looked
// up, all at once, in a table that lies in registers, and multiplied with inputs that were put in this order before; then
// every lane is shifted by one code. Where inputs and values all are bfloat16, wide codes are looked up in tables of these
// (AVX-512 alone), two runs of span / 2 codes to a lane, and pairs of products are summed in float32; narrow codes gain
// nothing by that.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "loops.hpp"
#include "product.hpp"

namespace octavo {

// Bits of a code from which on bfloat16 tables are faster.
constexpr int least_narrow = 6;

// Consecutive codes in a 32-bit lane.
constexpr std::size_t lane_span(int width) {
    constexpr std::size_t spans[] = {0, 32, 16, 8, 8, 4, 4, 2, 4};
    return spans[width];
}

struct LanesCodes {
    const std::uint8_t* codes;
    const std::uint8_t* end;  // of those of all rows
    std::size_t row_bytes;
    int width;
    const float* values;           // of all 2^width codes, repeated up to 256
    const std::uint16_t* narrow;   // the same in bfloat16
    const std::uint8_t* bytes;     // the same as ByteValues has them
    Factors scales;

    // Where the scales of a chunk's lanes lie: in the row from first[chunk] on, as many as the bits of present[chunk],
    // of which lane i takes the one numbered place[16 * chunk + i], in the upper half of that where scales are narrow.
    const std::uint32_t* first;
    const std::uint16_t* present;
    const std::int32_t* place;

    std::size_t chunk_codes() const { return lanes_in_chunk * lane_span(width); }
    std::size_t chunks() const { return (row_bytes * 8 / static_cast<std::size_t>(width) + chunk_codes() - 1) / chunk_codes(); }
};

// Calls run<width>().
template <typename Run>
void with_width(int width, const Run& run) {
    switch (width) {
        case 1: return run.template operator()<1>();
        case 2: return run.template operator()<2>();
        case 3: return run.template operator()<3>();
        case 4: return run.template operator()<4>();
        case 5: return run.template operator()<5>();
        case 6: return run.template operator()<6>();
        case 7: return run.template operator()<7>();
        default: return run.template operator()<8>();
    }
}

// Calls run<count, Scale>(vector) for as many vectors of a task at a time as share what is decoded. Scale: of blocks, or
// void where a row has one.
template <typename Run>
void in_batches(const LanesCodes& codes, const Task& task, const Run& run) {
    const auto some = [&]<int count>(std::size_t vector) {
        if (codes.scales.blocks == 1) return run.template operator()<count, void>(vector);
        return codes.scales.narrow ? run.template operator()<count, std::uint16_t>(vector)
                                   : run.template operator()<count, float>(vector);
    };
    std::size_t vector = 0;
    for (; vector + 8 <= task.batch; vector += 8) some.template operator()<8>(vector);
    if (vector + 4 <= task.batch) some.template operator()<4>(vector), vector += 4;
    if (vector + 2 <= task.batch) some.template operator()<2>(vector), vector += 2;
    if (vector < task.batch) some.template operator()<1>(vector);
}

#if OCTAVO_X86
// Whether this processor has the instructions: for float32 inputs, and for bfloat16 ones.
bool lanes_supported(bool narrow);

// One vector of inputs in the lanes' order; `plain` is readable up to whole chunks.
void lanes_arrange(int width, std::size_t chunks, bool narrow, const float* plain, float* out);

// Adds to the sums of a task, lane by lane.
void lanes_add(const LanesCodes& codes, const Task& task);

// out[row] += the sum of the lanes of a row.
void lanes_sum(const float* sums, std::size_t rows, float* out);
#endif

#if OCTAVO_X86 || OCTAVO_NEON
// The same in float32 for registers of eight or four lanes, AVX2's and NEON's, with sums in an order of their own.
bool split_lanes_supported();
void split_lanes_arrange(int width, std::size_t chunks, const float* plain, float* out);

// Adds to the outputs of a task.
void split_lanes_add(const LanesCodes& codes, const Task& task);
#endif

}  // namespace octavo
