// Threads that stay: those of torch's own OpenMP where it can be found, so that the two never compete for a core; or, for
// runs of operations without torch between them, helpers of our own.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <memory>

namespace octavo {

// While one lives, this thread's teams are helpers of our own.
class OwnTeam {
public:
    OwnTeam();
    ~OwnTeam();
    OwnTeam(const OwnTeam&) = delete;

private:
    const bool before_;
};

// Calls work(argument) on up to `threads` threads at once, the caller being one of them, and waits for all. `work`
// must take its share of the work from somewhere, and must not throw.
void in_team(std::size_t threads, void (*work)(void*), void* argument);

template <typename Work>
void in_team(std::size_t threads, const Work& work) {
    if (threads <= 1) return work();
    in_team(threads, [](void* argument) { (*static_cast<const Work*>(argument))(); },
            const_cast<void*>(static_cast<const void*>(std::addressof(work))));
}

// Tiles for a team of at most `members`. Each begins with a stretch of its own, so that it reads on where it was, and helps
// the others when it is through. The members of a very large team share them.
class Stretches {
public:
    Stretches(std::size_t tiles, std::size_t members) : tiles_(tiles), count_(std::min(members, most)) {}

    template <typename Work>
    void work(const Work& on_tile) {
        const std::size_t own = arrived_++;
        for (std::size_t i = 0; i < count_; ++i) {
            const std::size_t stretch = (own + i) % count_, begin = stretch * tiles_ / count_;
            const std::size_t count = (stretch + 1) * tiles_ / count_ - begin;
            while (taken_[stretch].tiles < count) {
                const std::size_t tile = taken_[stretch].tiles++;
                if (tile < count) on_tile(begin + tile);
            }
        }
    }

private:
    struct alignas(64) Taken {
        std::atomic<std::size_t> tiles = 0;
    };
    static constexpr std::size_t most = 16;
    const std::size_t tiles_, count_;
    Taken taken_[most];
    std::atomic<std::size_t> arrived_ = 0;
};

// A team is called for no fewer multiplications a thread than this.
constexpr std::size_t least_for_a_thread = std::size_t{1} << 15;

// The members of a team for so many pieces of work, and multiplications in all of them.
inline std::size_t members_for(std::size_t pieces, std::size_t multiplications, std::size_t threads) {
    return std::min(threads, std::max<std::size_t>(1, std::min(pieces, multiplications / least_for_a_thread)));
}

// Calls work(begin, end) on ranges that cover [0, count) and begin at multiples of `unit`, `ranges` for each thread;
// `weight` is the number of multiplications of one of them.
template <typename Work>
void in_team_ranges(std::size_t count, std::size_t unit, std::size_t weight, std::size_t threads, const Work& work,
                    std::size_t ranges = 1) {
    const std::size_t units = (count + unit - 1) / unit;
    const std::size_t team = std::max<std::size_t>(1, members_for(units, count * weight, threads));
    const std::size_t pieces = team == 1 ? 1 : team * ranges;
    const std::size_t share = (units + pieces - 1) / pieces * unit;
    std::atomic<std::size_t> next = 0;
    in_team(team, [&] {
        for (std::size_t begin = next++ * share; begin < count; begin = next++ * share)
            work(begin, std::min(count, begin + share));
    });
}

}  // namespace octavo
