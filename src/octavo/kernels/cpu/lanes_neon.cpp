// Products with packed codes for aarch64, all processors of which have NEON.
#include "lanes.hpp"

#if OCTAVO_NEON

#include <arm_neon.h>

#include "generic.hpp"
#include "lane_cuts.hpp"

#define OCTAVO_SPLIT

namespace octavo {
namespace {

constexpr std::size_t register_lanes = 4;
using Floats = float32x4_t;

OCTAVO_INLINE Floats zeros() { return vdupq_n_f32(0); }
OCTAVO_INLINE Floats load(const float* from) { return vld1q_f32(from); }
OCTAVO_INLINE Floats added(Floats a, Floats b) { return vaddq_f32(a, b); }
OCTAVO_INLINE Floats fused(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }

template <int shift>
OCTAVO_INLINE Floats picked(const float* from, const std::int32_t* places) {
    Floats found = vld1q_dup_f32(from + (places[0] >> shift));
    found = vld1q_lane_f32(from + (places[1] >> shift), found, 1);
    found = vld1q_lane_f32(from + (places[2] >> shift), found, 2);
    return vld1q_lane_f32(from + (places[3] >> shift), found, 3);
}

OCTAVO_INLINE float total(const Floats* registers) {
    const Floats four = vaddq_f32(vaddq_f32(registers[0], registers[2]), vaddq_f32(registers[1], registers[3]));
    const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

// The codes of four lanes, each lane's in its low bits.
template <int width>
OCTAVO_INLINE uint32x4_t word_of(const std::uint8_t* from, std::size_t piece) {
    using Cuts = Cut<width>;
    if constexpr (!Cuts::needed) {
        return vreinterpretq_u32_u8(vld1q_u8(from + 16 * piece));
    } else {
        static constexpr Cuts cuts;
        // A byte beyond the sixteen finds zero.
        const uint8x16_t bytes = vqtbl1q_u8(vld1q_u8(from + Cuts::at(piece)), vld1q_u8(cuts.bytes[piece]));
        return vshlq_u32(vreinterpretq_u32_u8(bytes), vnegq_s32(vld1q_s32(cuts.shifts)));
    }
}

// Tables of up to 16 entries lie in at most four registers, and are looked up byte by byte; larger ones in memory.
template <int width>
struct Steps {
    static constexpr bool in_registers = width <= 4;
    static constexpr int registers = width <= 2 ? 1 : 1 << (width - 2);
    uint8x16_t table[in_registers ? registers : 1];
    const float* memory;

    OCTAVO_INLINE explicit Steps(const float* values) : memory(values) {
        if constexpr (in_registers)
            for (int i = 0; i < registers; ++i) table[i] = vreinterpretq_u8_f32(vld1q_f32(values + 4 * i));
    }

    OCTAVO_INLINE Floats found(uint32x4_t word) const {
        const uint32x4_t code = vandq_u32(word, vdupq_n_u32((1u << width) - 1));
        if constexpr (in_registers) {
            // The four bytes of entry i are those from 4 * i on.
            const uint32x4_t first = vdupq_n_u32(0x03020100);
            const uint8x16_t bytes = vreinterpretq_u8_u32(vmlaq_n_u32(first, code, 0x04040404));
            if constexpr (registers == 1) return vreinterpretq_f32_u8(vqtbl1q_u8(table[0], bytes));
            if constexpr (registers == 2) return vreinterpretq_f32_u8(vqtbl2q_u8({{table[0], table[1]}}, bytes));
            if constexpr (registers == 4)
                return vreinterpretq_f32_u8(vqtbl4q_u8({{table[0], table[1], table[2], table[3]}}, bytes));
        } else {
            Floats value = vld1q_dup_f32(memory + vgetq_lane_u32(code, 0));
            value = vld1q_lane_f32(memory + vgetq_lane_u32(code, 1), value, 1);
            value = vld1q_lane_f32(memory + vgetq_lane_u32(code, 2), value, 2);
            return vld1q_lane_f32(memory + vgetq_lane_u32(code, 3), value, 3);
        }
    }

    template <int batch>
    OCTAVO_INLINE void multiply(const std::uint8_t* from, std::size_t piece, const float* x, std::size_t pitch,
                                Floats* sums) const {
        constexpr std::size_t steps = lane_span(width);
        uint32x4_t word = word_of<width>(from, piece);
#pragma GCC unroll 32
        for (std::size_t step = 0; step < steps; ++step) {
            const Floats value = found(word);
            for (int b = 0; b < batch; ++b)
                sums[b] = fused(value, load(x + lanes_in_chunk * step + static_cast<std::size_t>(b) * pitch), sums[b]);
            if (step + 1 < steps) word = vshrq_n_u32(word, width);
        }
    }
};

}  // namespace
}  // namespace octavo

#include "lanes_split.hpp"

namespace octavo {

bool split_lanes_supported() { return true; }

}  // namespace octavo

#endif
