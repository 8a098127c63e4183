#include "decoding.hpp"

#if OCTAVO_X86

#include <cmath>
#include <cstring>
#include <immintrin.h>

#include "generic.hpp"

#define OCTAVO_DECODES_AVX512
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f"))), apply_to = function)
#else
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // in GCC's own intrinsics (its bug 105593)
#pragma GCC push_options
#pragma GCC target("avx512f")
#endif

#include "decoding_loops.hpp"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace octavo {

const DecodingLoops& avx512_decoding() { return decoding_loops; }

}  // namespace octavo

#endif
