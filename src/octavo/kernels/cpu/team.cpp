#include "team.hpp"

#include <dlfcn.h>

#include <atomic>
#include <thread>
#include <vector>

#include "loops.hpp"

namespace octavo {
namespace {

using Work = void (*)(void*, std::size_t);

// The entry point that compiled OpenMP regions call. GNU's runtime has it, and LLVM's and Intel's for its sake.
using Region = void (*)(void (*)(void*), void*, unsigned, unsigned);

// Torch loads its runtime so that all libraries see it; a team of it keeps its threads, and they wait awake for the
// next region.
Region torch_region() {
    static const Region found = reinterpret_cast<Region>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    return found;
}

void pause() {
#if OCTAVO_X86
    __builtin_ia32_pause();
#else
    std::this_thread::yield();
#endif
}

// Helpers that wait awake for a moment, then asleep. Whoever calls them does not wait for those that have not come by the
// time that the work is done: on a busy machine they cost nothing, where a team that meets at the end of each region waits
// until every member has had its turn on a processor.
class Helpers {
public:
    void run(std::size_t count, Work work, void* argument) {
        // Of two callers at a time one works alone.
        if (taken_.exchange(true, std::memory_order_acquire)) return work(argument, 0);
        for (; made_ < count; ++made_) std::thread([this] { help(); }).detach();
        work_ = work, argument_ = argument;
        const std::uint64_t number = (state_.load(std::memory_order_relaxed) >> number_at) + 1;
        state_.store(number << number_at | open | std::uint64_t{count} << most_at);
        if (asleep_.load() != 0) state_.notify_all();
        work(argument, 0);
        state_.fetch_and(~open, std::memory_order_acq_rel);
        await_others();
        taken_.store(false, std::memory_order_release);
    }

private:
    // Of the state: how many are at work, how many may be, whether more may come, and the number of the call.
    static constexpr std::uint64_t inside = 0xFFFF, open = std::uint64_t{1} << 31;
    static constexpr int most_at = 16, number_at = 32;
    static constexpr std::uint64_t most = 0x7FFF;

    // Looks at the state, some tens of nanoseconds each, before a thread gives up its processor to others that want it.
    static constexpr std::size_t patience = 200;

    // Times that a helper does so before it sleeps, about as long as Python takes between two steps: waking takes as long as
    // some of a step's products.
    static constexpr std::size_t yields = 2000;

    void help() {
        for (std::uint64_t seen = 0;;) {
            std::uint64_t now = next(seen);
            seen = now >> number_at;
            while (now >> number_at == seen && (now & open) != 0 && (now & inside) < (now >> most_at & most)) {
                if (!state_.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel)) continue;
                work_(argument_, (now & inside) + 1);
                state_.fetch_sub(1);
                if (caller_asleep_.load()) state_.notify_all();
                break;
            }
        }
    }

    // Until all have left. One that has lost its processor to others may get that of the caller, once that sleeps.
    void await_others() {
        for (std::size_t turn = 0; turn < patience; ++turn, pause())
            if ((state_.load(std::memory_order_acquire) & inside) == 0) return;
        caller_asleep_ = true;
        for (std::uint64_t now; ((now = state_.load()) & inside) != 0;) state_.wait(now);
        caller_asleep_ = false;
    }

    // The state of a call other than the one that was seen last.
    std::uint64_t next(std::uint64_t seen) {
        for (std::size_t turn = 0; turn < patience + yields; ++turn, turn < patience ? pause() : std::this_thread::yield())
            if (const std::uint64_t now = state_.load(std::memory_order_acquire); now >> number_at != seen) return now;
        ++asleep_;
        std::uint64_t now = state_.load();
        for (; now >> number_at == seen; now = state_.load()) state_.wait(now);
        --asleep_;
        return now;
    }

    std::atomic<bool> taken_ = false;
    std::size_t made_ = 0;
    // One line of the cache, which helpers wait for and find all in.
    alignas(64) std::atomic<std::uint64_t> state_ = 0;
    Work work_ = nullptr;
    void* argument_ = nullptr;
    alignas(64) std::atomic<std::size_t> asleep_ = 0;
    std::atomic<bool> caller_asleep_ = false;
};

// Never destroyed, since its threads outlive everything.
Helpers& helpers() {
    static Helpers* const made = new Helpers;
    return *made;
}

thread_local bool own_team = false;

}  // namespace

OwnTeam::OwnTeam() : before_(own_team) { own_team = true; }
OwnTeam::~OwnTeam() { own_team = before_; }

void in_team(std::size_t threads, Work work, void* argument) {
    if (own_team) return helpers().run(threads - 1, work, argument);
    struct Call {
        Work work;
        void* argument;
        std::atomic<std::size_t> arrived = 0;
    } call{work, argument};
    const auto come = [](void* given) {
        Call& own = *static_cast<Call*>(given);
        own.work(own.argument, own.arrived++);
    };
    if (const Region region = torch_region()) return region(come, &call, static_cast<unsigned>(threads), 0);
    std::vector<std::jthread> others;
    for (std::size_t other = 1; other < threads; ++other) others.emplace_back(come, &call);
    come(&call);
}

}  // namespace octavo
