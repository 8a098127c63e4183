// Look-ups of bytes by the low `width` bits of each byte: a table of 64 bytes is one instruction.
#pragma once

#include "chunks_avx512.hpp"

#if OCTAVO_X86

namespace octavo {

template <int width>
struct Lookup {
    static constexpr int registers = width <= 6 ? 1 : 1 << (width - 6);
    __m512i table[registers];

    OCTAVO_CHUNKS OCTAVO_INLINE explicit Lookup(const void* values) {
        for (int i = 0; i < registers; ++i) table[i] = _mm512_loadu_si512(static_cast<const char*>(values) + 64 * i);
    }

    OCTAVO_CHUNKS OCTAVO_INLINE __m512i operator()(__m512i index) const {
        if constexpr (width <= 6) return _mm512_permutexvar_epi8(index, table[0]);
        if constexpr (width == 7) return _mm512_permutex2var_epi8(table[0], index, table[1]);
        if constexpr (width == 8)
            return _mm512_mask_mov_epi8(_mm512_permutex2var_epi8(table[0], index, table[1]), _mm512_movepi8_mask(index),
                                        _mm512_permutex2var_epi8(table[2], index, table[3]));
    }
};

}  // namespace octavo

#endif
