// The roofline of products of one vector: reading memory, and nothing else.
#pragma once

#include <cstddef>
#include <cstdint>

namespace octavo {

// The sum of `count` whole numbers, read on `threads` threads as fast as the memory delivers them.
std::uint64_t sum_of_memory(const std::uint64_t* numbers, std::size_t count, std::size_t threads);

}  // namespace octavo
