// Arrays that end where a page ends, with the next page forbidden, so that also what sanitizers do not see (masked loads and
// gathers) may not stray.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>

template <typename T>
T* guarded(std::size_t count) {
    const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE)), size = count * sizeof(T);
    const std::size_t pages = (size + page - 1) / page + 1;
    void* start = mmap(nullptr, (pages + 1) * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED || mprotect(static_cast<char*>(start) + pages * page, page, PROT_NONE) != 0) std::abort();
    return reinterpret_cast<T*>(static_cast<char*>(start) + pages * page - size);
}
