// The inner loops, in a portable, an AVX2 and in part an AVX-512 version that agree bit for bit; chosen once, at run
// time.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__x86_64__)
#define OCTAVO_X86 1
#else
#define OCTAVO_X86 0
#endif

#if defined(__aarch64__)
#define OCTAVO_NEON 1
#else
#define OCTAVO_NEON 0
#endif

namespace octavo {

// Loops read weights and write codes in multiples of this many; callers pad their buffers.
constexpr std::size_t lane = 8;

// Comparisons done one by one; a larger table is bisected below this many coarse cells.
constexpr std::size_t coarse_cells = 32;

// What a grid's codes stand for: table[code + half] if |code| <= half, else the code itself. At least few_points
// entries of the table are readable.
struct Points {
    const float* table;
    std::int32_t half;
};

// So many points fit two registers of eight.
constexpr std::size_t few_points = 2 * lane;

// A trellis of 4 to 64 states; h0 has the highest bit of a state, h1 has not.
struct Trellis {
    std::uint32_t states;
    std::uint32_t h0;
    std::uint32_t h1;
};

constexpr std::size_t max_states = 64;

// Rows between two subtractions of the least cost.
constexpr std::size_t trellis_period = 64;

// A bit-shift trellis: bits to a code, at most max_shift_bits; a table of 2^window values, window >= 2 * bits, of
// which max_window bits at most. Its states fall into classes by their low window - bits bits, at least 16.
struct ShiftTrellis {
    std::uint32_t window;
    std::uint32_t bits;
    const float* table;

    std::size_t nodes() const { return std::size_t{1} << (window - bits); }
    std::size_t decision_bytes() const { return bits * (nodes() / 8); }
};

constexpr std::uint32_t max_shift_bits = 8;
constexpr std::uint32_t max_window = 16;

// Steps between two subtractions of the least cost.
constexpr std::size_t shift_period = 16;

// So many costs are readable beyond the last.
constexpr std::size_t shift_spare = 16;

// Weights beyond so many fine steps count as so many.
constexpr float trellis_reach = 32768.0f;

// What an index costs beside its squared error: table[(quantizer * contexts + context) * sizes + |index|].
struct IndexCosts {
    const float* table;
    std::size_t contexts;
    std::size_t sizes;
};

struct Loops {
    const char* name;

    // thresholds[k] = midpoints[k] * scale.
    void (*scale)(const float* midpoints, std::size_t count, float scale, float* thresholds);

    // codes[i] = number of thresholds below x[i], for n weights, n a multiple of `lane`. `thresholds` ascend, and
    // 2**depth - 1 of them are readable, infinite beyond `count`.
    void (*codes)(const float* x, std::size_t n, const float* thresholds, std::size_t count, int depth,
                  std::uint8_t* codes);

    // out[i] = table[codes[i]] * scale; `table` has 256 entries, and all codes lie below `levels`.
    void (*values)(const std::uint8_t* codes, std::size_t n, const float* table, std::size_t levels, float scale,
                   float* out);

    // out[b * out_pitch] += sum of weights[i] * x[b * pitch + i] for n weights, n a multiple of 16, and each b < batch.
    void (*dot)(const float* weights, std::size_t n, const float* x, std::size_t pitch, std::size_t batch, float* out,
                std::size_t out_pitch);

    void (*widen_bfloat16)(const std::uint16_t* in, std::size_t n, float* out);
    void (*widen_float16)(const std::uint16_t* in, std::size_t n, float* out);
    void (*narrow_bfloat16)(const float* in, std::size_t n, std::uint16_t* out);

    // out[i] = point(codes[i]) * (row * columns[i]), the points being the grid's.
    void (*grid_int8)(const std::int8_t* codes, std::size_t n, const Points& points, float row, const float* columns,
                      float* out);
    void (*grid_int16)(const std::int16_t* codes, std::size_t n, const Points& points, float row, const float* columns,
                       float* out);

    // The best index of each quantizer and parity for n weights, whose contexts lie below costs.contexts, and what it
    // costs, both by 4 * weight + 2 * quantizer + parity.
    void (*trellis_branches)(const float* scaled, const std::uint8_t* context, std::size_t n, const IndexCosts& costs,
                             float* cost, std::int16_t* indices);

    // Moves the cost of every state over `rows` rows; `branches` holds for each row the cost of a step by
    // 2 * quantizer + parity. Bit s of a decision says that s was reached by an odd index. The cost of state s lies
    // at (s & 1) * states / 2 + (s >> 1); max_states costs are readable, infinite beyond the states.
    void (*trellis_walk)(const Trellis& trellis, const float* branches, std::size_t rows, float* cost,
                         std::uint64_t* decisions);

    // Value in fine steps and quantizer (either may be null) of n indices in n states, which move on.
    void (*trellis_int8)(const Trellis& trellis, const std::int8_t* indices, std::size_t n, std::int16_t* states,
                         std::int16_t* values, std::uint8_t* quantizers);
    void (*trellis_int16)(const Trellis& trellis, const std::int16_t* indices, std::size_t n, std::int16_t* states,
                          std::int16_t* values, std::uint8_t* quantizers);

    // Moves the cost of every class of states over `steps` weights, and says for each step and class which of the
    // 2^bits states was best: a bit for each class, by bits of the decision. There is room for twice the costs, and shift_spare.
    void (*shift_walk)(const ShiftTrellis& trellis, const float* weights, std::size_t steps, float* total,
                       std::uint8_t* decisions);

    // The table's values, [rows][lane], of `lane` streams that lie `pitch` bytes apart and begin with a whole byte.
    // Three bytes beyond the one where the last window begins are readable.
    void (*shift_values)(const ShiftTrellis& trellis, const std::uint8_t* streams, std::size_t pitch, std::size_t rows,
                         float* values);
};

extern const Loops portable_loops;
#if OCTAVO_X86
extern const Loops avx2_loops;

// The loops with those replaced that are faster with AVX-512.
Loops with_avx512(Loops loops);
#endif

// The fastest loops this processor runs; `portable` forces the portable ones, and without `avx512` they are those of a
// processor that has none.
const Loops& choose_loops(bool portable, bool avx512 = true);

}  // namespace octavo
