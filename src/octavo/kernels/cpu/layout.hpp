// How codes lie in bytes. The rule is written down in octavo/kernels/layout.py; this is the same rule in C++.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace octavo {

static_assert(std::endian::native == std::endian::little, "packed codes are little-endian");

constexpr std::size_t max_levels = 256;
constexpr std::size_t max_digits = 64;

struct Layout {
    std::uint32_t levels;
    std::uint32_t digits;  // codes in a full group
    std::uint32_t bytes;   // bytes of a full group
    bool power_of_two;
    std::uint64_t magic;   // numbers below 2**63 are divided by `levels` as (high half of number * magic) >> shift
    std::uint32_t shift;

    // Throws std::invalid_argument unless 2 <= levels <= 256.
    explicit Layout(std::int64_t levels);

    // Fewest bytes that hold the codes of a last group of `count` < digits codes.
    std::size_t tail_bytes(std::size_t count) const;
    std::size_t packed_bytes(std::size_t count) const;
};

// `out` takes exactly layout.packed_bytes(count) bytes; `codes` lie below layout.levels and must be readable and
// writable up to the next multiple of layout.digits, where zeros are written.
void pack_codes(const Layout& layout, std::uint8_t* codes, std::size_t count, std::uint8_t* out);

// `codes` must be writable up to the next multiple of layout.digits; exactly packed_bytes(count) bytes are read.
void unpack_codes(const Layout& layout, const std::uint8_t* in, std::size_t count, std::uint8_t* codes);

}  // namespace octavo
