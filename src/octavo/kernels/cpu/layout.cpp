#include "layout.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <string>

namespace octavo {
namespace {

using Wide = unsigned __int128;

std::uint32_t digits_in(std::uint32_t levels, std::uint32_t bytes) {
    const Wide limit = Wide{1} << (8 * bytes);
    std::uint32_t digits = 0;
    for (Wide power = levels; power <= limit; power *= levels) ++digits;
    return digits;
}

constexpr std::uint64_t low_bytes = 0x00FF00FF00FF00FFull;
constexpr std::uint64_t low_pairs = 0x0000FFFF0000FFFFull;
constexpr std::uint64_t low_half = 0x00000000FFFFFFFFull;

// Eight codes of W bits, one a byte, to 8 * W bits without gaps, and back: fields are joined in pairs three times.
template <int W>
std::uint64_t squeeze(std::uint64_t x) {
    if constexpr (W == 8) return x;
    x = (x & low_bytes) | ((x & ~low_bytes) >> (8 - W));
    x = (x & low_pairs) | ((x & ~low_pairs) >> (16 - 2 * W));
    return (x & low_half) | ((x & ~low_half) >> (32 - 4 * W));
}

template <int W>
std::uint64_t spread(std::uint64_t x) {
    if constexpr (W == 8) return x;
    constexpr std::uint64_t one = (1ull << W) - 1, two = (1ull << (2 * W)) - 1, four = (1ull << (4 * W)) - 1;
    x = (x & four) | ((x << (32 - 4 * W)) & (four << 32));
    constexpr std::uint64_t twos = two | (two << 32), ones = one * 0x0001000100010001ull;
    x = (x & twos) | ((x << (16 - 2 * W)) & (twos << 16));
    return (x & ones) | ((x << (8 - W)) & (ones << 8));
}

template <int W>
void pack_width(const std::uint8_t* codes, std::size_t groups, std::uint8_t* out) {
    for (std::size_t group = 0; group < groups; ++group) {
        std::uint64_t x;
        std::memcpy(&x, codes + 8 * group, 8);
        x = squeeze<W>(x);
        std::memcpy(out + W * group, &x, W);
    }
}

template <int W>
void unpack_width(const std::uint8_t* in, std::size_t groups, std::uint8_t* codes) {
    for (std::size_t group = 0; group < groups; ++group) {
        std::uint64_t x = 0;
        std::memcpy(&x, in + W * group, W);
        x = spread<W>(x);
        std::memcpy(codes + 8 * group, &x, 8);
    }
}

std::uint64_t joined(const Layout& layout, const std::uint8_t* codes) {
    std::uint64_t number = 0;
    for (std::uint32_t index = layout.digits; index-- > 0;) number = number * layout.levels + codes[index];
    return number;
}

std::uint64_t quotient_of(const Layout& layout, std::uint64_t number) {
    return static_cast<std::uint64_t>((Wide{number} * layout.magic) >> 64) >> layout.shift;
}

void split(const Layout& layout, std::uint64_t number, std::uint8_t* codes) {
    // `magic` divides 63 bits exactly; a number of 64 bits, which only the first division can meet, is divided plainly.
    std::uint64_t quotient = layout.bytes == 8 ? number / layout.levels : quotient_of(layout, number);
    codes[0] = static_cast<std::uint8_t>(number - quotient * layout.levels);
    for (std::uint32_t index = 1; index < layout.digits; ++index) {
        number = quotient;
        quotient = quotient_of(layout, number);
        codes[index] = static_cast<std::uint8_t>(number - quotient * layout.levels);
    }
}

// The codes of groups of one byte, the first of a group in the lowest byte, by what the byte holds.
const std::uint64_t* codes_of_bytes(const Layout& layout) {
    static std::array<std::array<std::uint64_t, 256>, max_levels + 1> tables;
    static std::array<std::once_flag, max_levels + 1> made;
    auto& table = tables[layout.levels];
    std::call_once(made[layout.levels], [&] {
        for (std::size_t number = 0; number < table.size(); ++number)
            split(layout, number, reinterpret_cast<std::uint8_t*>(&table[number]));
    });
    return table.data();
}

void pack_groups(const Layout& layout, const std::uint8_t* codes, std::size_t groups, std::uint8_t* out) {
    if (layout.power_of_two) {
        switch (layout.bytes) {
            case 1: return pack_width<1>(codes, groups, out);
            case 2: return pack_width<2>(codes, groups, out);
            case 3: return pack_width<3>(codes, groups, out);
            case 4: return pack_width<4>(codes, groups, out);
            case 5: return pack_width<5>(codes, groups, out);
            case 6: return pack_width<6>(codes, groups, out);
            case 7: return pack_width<7>(codes, groups, out);
            default: return pack_width<8>(codes, groups, out);
        }
    }
    for (std::size_t group = 0; group < groups; ++group) {
        const std::uint64_t number = joined(layout, codes + group * layout.digits);
        std::memcpy(out + group * layout.bytes, &number, layout.bytes);
    }
}

void unpack_groups(const Layout& layout, const std::uint8_t* in, std::size_t groups, std::uint8_t* codes) {
    if (layout.power_of_two) {
        switch (layout.bytes) {
            case 1: return unpack_width<1>(in, groups, codes);
            case 2: return unpack_width<2>(in, groups, codes);
            case 3: return unpack_width<3>(in, groups, codes);
            case 4: return unpack_width<4>(in, groups, codes);
            case 5: return unpack_width<5>(in, groups, codes);
            case 6: return unpack_width<6>(in, groups, codes);
            case 7: return unpack_width<7>(in, groups, codes);
            default: return unpack_width<8>(in, groups, codes);
        }
    }
    std::size_t group = 0;
    if (layout.bytes == 1) {
        // Eight codes are written, of which the next group overwrites those that are not its own.
        const std::uint64_t* const table = codes_of_bytes(layout);
        const std::size_t spare = (sizeof *table + layout.digits - 1) / layout.digits;
        for (; group + spare <= groups; ++group) std::memcpy(codes + group * layout.digits, table + in[group], sizeof *table);
    }
    for (; group < groups; ++group) {
        std::uint64_t number = 0;
        std::memcpy(&number, in + group * layout.bytes, layout.bytes);
        split(layout, number, codes + group * layout.digits);
    }
}

}  // namespace

Layout::Layout(std::int64_t count) {
    if (count < 2 || count > static_cast<std::int64_t>(max_levels))
        throw std::invalid_argument("an alphabet of " + std::to_string(count) + " levels cannot be packed");
    levels = static_cast<std::uint32_t>(count);
    power_of_two = std::has_single_bit(levels);
    const auto width = static_cast<std::uint32_t>(std::bit_width(levels - 1));  // ceil(log2(levels))
    digits = 8;
    bytes = width;
    magic = 0;
    shift = 0;
    if (power_of_two) return;
    digits = 0;
    bytes = 1;
    for (std::uint32_t size = 1; size <= 8; ++size) {
        const std::uint32_t found = digits_in(levels, size);
        if (digits == 0 ? found > 0 : size * digits < bytes * found) digits = found, bytes = size;
    }
    // Division by invariant integers (Granlund and Montgomery 1994) for numbers of 63 bits.
    magic = static_cast<std::uint64_t>((Wide{1} << (63 + width)) / levels) + 1;
    shift = width - 1;
}

std::size_t Layout::tail_bytes(std::size_t count) const {
    Wide largest = 1;
    for (std::size_t index = 0; index < count; ++index) largest *= levels;
    --largest;
    std::size_t size = 0;
    for (; largest != 0; largest >>= 8) ++size;
    return size;
}

std::size_t Layout::packed_bytes(std::size_t count) const {
    return count / digits * bytes + tail_bytes(count % digits);
}

void pack_codes(const Layout& layout, std::uint8_t* codes, std::size_t count, std::uint8_t* out) {
    const std::size_t groups = count / layout.digits, rest = count % layout.digits;
    pack_groups(layout, codes, groups, out);
    if (rest == 0) return;
    std::fill(codes + count, codes + (groups + 1) * layout.digits, std::uint8_t{0});
    std::uint8_t last[8];
    pack_groups(layout, codes + groups * layout.digits, 1, last);
    std::memcpy(out + groups * layout.bytes, last, layout.tail_bytes(rest));
}

void unpack_codes(const Layout& layout, const std::uint8_t* in, std::size_t count, std::uint8_t* codes) {
    const std::size_t groups = count / layout.digits, rest = count % layout.digits;
    unpack_groups(layout, in, groups, codes);
    if (rest == 0) return;
    std::uint8_t last[8] = {};
    std::memcpy(last, in + groups * layout.bytes, layout.tail_bytes(rest));
    unpack_groups(layout, last, 1, codes + groups * layout.digits);
}

}  // namespace octavo
