#include "decoding.hpp"

#if OCTAVO_X86

#include <cmath>
#include <cstring>
#include <immintrin.h>

#include "generic.hpp"

#define OCTAVO_DECODES_AVX2
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
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
