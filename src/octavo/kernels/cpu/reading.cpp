#include "reading.hpp"

#include <atomic>

#include "team.hpp"

namespace octavo {
namespace {

constexpr std::size_t line = 8;  // numbers of a line of the cache
constexpr std::size_t unit = std::size_t{1} << 16;

// Processors fetch no further than to the end of a page by themselves.
constexpr std::size_t ahead = 512;

std::uint64_t sum(const std::uint64_t* numbers, std::size_t count) {
    std::uint64_t sums[line] = {};
    std::size_t i = 0;
    for (; i + line <= count; i += line) {
        __builtin_prefetch(numbers + i + ahead, 0, 2);
        for (std::size_t j = 0; j < line; ++j) sums[j] += numbers[i + j];
    }
    std::uint64_t total = 0;
    for (; i < count; ++i) total += numbers[i];
    for (std::uint64_t each : sums) total += each;
    return total;
}

}  // namespace

std::uint64_t sum_of_memory(const std::uint64_t* numbers, std::size_t count, std::size_t threads) {
    std::atomic<std::uint64_t> total = 0;
    in_team_ranges(count, unit, 1, threads, [&](std::size_t begin, std::size_t end) { total += sum(numbers + begin, end - begin); });
    return total;
}

}  // namespace octavo
