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

// Calls work(argument, member) on up to `threads` threads at once, the caller being one of them, and waits for all. Members
// are numbered as they come. `work` must take its share of the work from somewhere, and must not throw.
void in_team(std::size_t threads, void (*work)(void*, std::size_t), void* argument);

template <typename Work>
void in_team(std::size_t threads, const Work& work) {
    if (threads <= 1) return work(0);
    in_team(threads, [](void* argument, std::size_t member) { (*static_cast<const Work*>(argument))(member); },
            const_cast<void*>(static_cast<const void*>(std::addressof(work))));
}

// Pieces of work for a team of at most `members`. Each begins with a stretch of its own, so that it reads on where it was, and
// helps the others when it is through. Of a stretch they take half of what is left, at least `least` pieces and at most `most`:
// few turns, the last of which are short, so that nobody waits long for the others. The members of a very large team share
// stretches.
class Stretches {
public:
    Stretches(std::size_t pieces, std::size_t members, std::size_t least, std::size_t most)
        : pieces_(pieces), count_(std::min(members, largest)), least_(least), most_(most) {}

    // Calls work(begin, end) on ranges that cover all pieces together.
    template <typename Work>
    void work(std::size_t member, const Work& on_range) {
        for (std::size_t i = 0; i < count_; ++i) {
            const std::size_t stretch = (member + i) % count_, end = (stretch + 1) * pieces_ / count_;
            const std::size_t begin = stretch * pieces_ / count_;
            std::atomic<std::size_t>& taken = taken_[stretch].pieces;
            for (std::size_t from = taken; from < end - begin;) {
                const std::size_t left = end - begin - from, count = std::min({std::max(least_, (left + 1) / 2), most_, left});
                if (!taken.compare_exchange_weak(from, from + count)) continue;
                on_range(begin + from, begin + from + count);
                from = taken;
            }
        }
    }

private:
    struct alignas(64) Taken {
        std::atomic<std::size_t> pieces = 0;
    };
    static constexpr std::size_t largest = 16;
    const std::size_t pieces_, count_, least_, most_;
    Taken taken_[largest];
};

// A team is called for no fewer multiplications a thread than this.
constexpr std::size_t least_for_a_thread = std::size_t{1} << 15;

// The members of a team for so many pieces of work, and multiplications in all of them.
inline std::size_t members_for(std::size_t pieces, std::size_t multiplications, std::size_t threads) {
    return std::min(threads, std::max<std::size_t>(1, std::min(pieces, multiplications / least_for_a_thread)));
}

// Calls work(begin, end) on ranges that cover [0, count) and begin at multiples of `unit`, one for each thread, or with
// `uneven` work as many as that asks for; `weight` is the number of multiplications of one of them.
template <typename Work>
void in_team_ranges(std::size_t count, std::size_t unit, std::size_t weight, std::size_t threads, const Work& work,
                    bool uneven = false) {
    const std::size_t units = (count + unit - 1) / unit;
    const std::size_t team = std::max<std::size_t>(1, members_for(units, count * weight, threads));
    Stretches stretches(units, team, uneven && team > 1 ? 1 : (units + team - 1) / team, units);
    in_team(team, [&](std::size_t member) {
        stretches.work(member, [&](std::size_t begin, std::size_t end) { work(begin * unit, std::min(count, end * unit)); });
    });
}

}  // namespace octavo
