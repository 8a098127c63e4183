#include "decoding.hpp"

#include "decoding_loops.hpp"

namespace octavo {

const DecodingLoops& choose_decoding(bool portable) {
#if OCTAVO_X86
    if (!portable && __builtin_cpu_supports("avx512f")) return avx512_decoding();
    if (!portable && __builtin_cpu_supports("avx2")) return avx2_decoding();
#endif
    (void)portable;
    return decoding_loops;
}

}  // namespace octavo
