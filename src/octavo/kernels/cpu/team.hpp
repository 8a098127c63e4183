// Threads that stay: those of torch's own OpenMP where it can be found, so that the two never compete for a core.
#pragma once

#include <cstddef>
#include <memory>

namespace octavo {

// Calls work(argument) on up to `threads` threads at once, the caller being one of them, and waits for all. `work`
// must take its share of the work from somewhere, and must not throw.
void in_team(std::size_t threads, void (*work)(void*), void* argument);

template <typename Work>
void in_team(std::size_t threads, const Work& work) {
    if (threads <= 1) return work();
    in_team(threads, [](void* argument) { (*static_cast<const Work*>(argument))(); },
            const_cast<void*>(static_cast<const void*>(std::addressof(work))));
}

}  // namespace octavo
