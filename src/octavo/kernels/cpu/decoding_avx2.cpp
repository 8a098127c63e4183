#include "decoding.hpp"

#if OCTAVO_X86

#include <cmath>
#include <cstring>

#include "generic.hpp"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif

#include "decoding_loops.hpp"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace octavo {

const DecodingLoops& avx2_decoding() { return decoding_loops; }

}  // namespace octavo

#endif
