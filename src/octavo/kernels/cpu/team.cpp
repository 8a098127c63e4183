#include "team.hpp"

#include <dlfcn.h>

#include <thread>
#include <vector>

namespace octavo {
namespace {

// The entry point that compiled OpenMP regions call. GNU's runtime has it, and LLVM's and Intel's for its sake.
using Region = void (*)(void (*)(void*), void*, unsigned, unsigned);

// Torch loads its runtime so that all libraries see it; a team of it keeps its threads, and they wait awake for the
// next region. A runtime of our own would have threads that wait awake beside them.
Region torch_region() {
    static const Region found = reinterpret_cast<Region>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    return found;
}

}  // namespace

void in_team(std::size_t threads, void (*work)(void*), void* argument) {
    if (const Region region = torch_region()) return region(work, argument, static_cast<unsigned>(threads), 0);
    std::vector<std::jthread> helpers;
    for (std::size_t helper = 1; helper < threads; ++helper) helpers.emplace_back(work, argument);
    work(argument);
}

}  // namespace octavo
