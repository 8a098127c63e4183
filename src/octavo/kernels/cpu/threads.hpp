// Ranges of weights over threads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <thread>
#include <vector>

namespace octavo {

// A thread that has less to do than this costs more to start than it saves.
constexpr std::size_t least_per_thread = std::size_t{1} << 17;

// Calls work(begin, end) on ranges that cover [0, count) and begin at multiples of `unit`, so that no two of them
// touch one byte. `weight` is the number of weights that one of `count` stands for; a thread gets no fewer than
// `least`. `work` must not throw.
template <typename Work>
void in_ranges(std::size_t count, std::size_t unit, std::size_t weight, std::size_t threads, const Work& work,
               std::size_t least = least_per_thread) {
    const std::size_t useful = std::max<std::size_t>(1, count * weight / least);
    const std::size_t parts = std::clamp<std::size_t>(threads, 1, useful);
    const std::size_t units = (count + unit - 1) / unit;
    const std::size_t share = (units + parts - 1) / parts * unit;
    std::vector<std::jthread> helpers;
    for (std::size_t part = 1; part < parts && part * share < count; ++part)
        helpers.emplace_back([=, &work] { work(part * share, std::min(count, (part + 1) * share)); });
    work(0, std::min(count, share));
}

}  // namespace octavo
