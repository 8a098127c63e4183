// How lanes that are no whole words are cut out of a chunk (see lanes.hpp) by registers of sixteen bytes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "lanes.hpp"

namespace octavo {

constexpr std::size_t chunk_bytes(int width) {
    return lanes_in_chunk * lane_span(width) * static_cast<std::size_t>(width) / 8;
}

constexpr std::size_t most_chunk_bytes = 64;

// Four lanes are cut out of sixteen bytes, which end where the chunk does at the latest.
template <int width>
struct Cut {
    static constexpr int lane_bits = static_cast<int>(lane_span(width)) * width;
    static constexpr bool needed = lane_bits != 32, shifted = lane_bits % 8 != 0;

    // Where in the chunk the bytes for a quarter of its lanes begin.
    static constexpr std::size_t at(std::size_t quarter) {
        const std::size_t first = quarter * chunk_bytes(width) / 4, latest = chunk_bytes(width) - 16;
        return first < latest ? first : latest;
    }

    // Which of them a lane's are, and how many bits too high it then lies.
    alignas(32) std::uint8_t bytes[4][16];
    alignas(32) std::int32_t shifts[8];

    constexpr Cut() : bytes(), shifts() {
        for (std::size_t quarter = 0; quarter < 4; ++quarter)
            for (int i = 0; i < 16; ++i) {
                const int bit = i / 4 * lane_bits, byte = i % 4;
                const bool wanted = 8 * byte < bit % 8 + lane_bits;
                const std::size_t found = quarter * chunk_bytes(width) / 4 - at(quarter) + static_cast<std::size_t>(bit / 8 + byte);
                bytes[quarter][i] = static_cast<std::uint8_t>(wanted ? found : 0x80);
            }
        for (int lane = 0; lane < 8; ++lane) shifts[lane] = lane % 4 * lane_bits % 8;
    }
};

}  // namespace octavo
