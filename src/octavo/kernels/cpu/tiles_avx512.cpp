#include "tiles.hpp"

#if OCTAVO_X86

#include <cpuid.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "lanes.hpp"
#include "lookup_avx512.hpp"

#define OCTAVO_TILES __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni,amx-tile,amx-int8")))

// Compilers' own intrinsics tell them too little of what is read and written (GCC 12 drops the stores to a configuration).
#define OCTAVO_LOAD_TILE(tile, from, stride)                                                             \
    asm volatile("tileloadd (%0,%1,1), %%tmm" #tile ::"r"(static_cast<const void*>(from)),               \
                 "r"(static_cast<std::ptrdiff_t>(stride)) : "memory")
#define OCTAVO_STORE_TILE(tile, to, stride)                                                              \
    asm volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"(static_cast<void*>(to)),                   \
                 "r"(static_cast<std::ptrdiff_t>(stride)) : "memory")
#define OCTAVO_CLEAR_TILE(tile) asm volatile("tilezero %%tmm" #tile ::: "memory")
// Signed bytes times signed bytes.
#define OCTAVO_MULTIPLY_TILES(sums, left, right) \
    asm volatile("tdpbssd %%tmm" #right ", %%tmm" #left ", %%tmm" #sums ::: "memory")

namespace octavo {
namespace {

bool permitted() {
#if defined(__linux__) && defined(SYS_arch_prctl)
    constexpr int request = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM of XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, request, tile_data) == 0;
#else
    return false;
#endif
}

// Whether this processor has AMX, and the system lets this process use it.
bool matrices_supported() {
    static const bool supported = [] {
        unsigned a = 0, b = 0, c = 0, d = 0;
        const bool known = __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0;
        constexpr unsigned tiles = 1u << 24, bytes = 1u << 25;
        return known && (d & tiles) != 0 && (d & bytes) != 0 && permitted();
    }();
    return supported;
}

constexpr std::size_t rows_in_tile = 16;

constexpr std::size_t padded(std::size_t count) { return (count + 15) / 16 * 16; }

// Loads of sixteen rows that are decoded before they are multiplied: their bytes are a third of the nearest cache.
constexpr std::size_t loads_in_strip = 16;
constexpr std::size_t most_slices = loads_in_strip * codes_in_load / 32;

// What a thread keeps of sixteen rows.
struct Strip {
    alignas(64) std::int8_t bytes[rows_in_tile * loads_in_strip * codes_in_load];  // [slice][row][code]
    alignas(64) float scales[most_slices * rows_in_tile];                         // [slice][row]
    alignas(64) std::int32_t sums[2][rows_in_tile * vectors_in_tile];              // [row][vector], in turns
};

Strip& strip() {
    static thread_local Strip kept{};
    return kept;
}

// Tiles 0 and 3 are sums, 1 and 4 codes, 2 and 5 inputs, of slices in turns.
struct Shapes {
    std::uint8_t palette = 1, start = 0, reserved[14] = {};
    std::uint16_t row_bytes[16] = {};
    std::uint8_t rows[16] = {};

    explicit Shapes(std::size_t slice) {
        for (int turn = 0; turn < 6; turn += 3) {
            set(turn, rows_in_tile, 4 * vectors_in_tile);
            set(turn + 1, rows_in_tile, slice);
            set(turn + 2, slice / 4, 4 * vectors_in_tile);
        }
    }

private:
    void set(int tile, std::size_t height, std::size_t width) {
        rows[tile] = static_cast<std::uint8_t>(height);
        row_bytes[tile] = static_cast<std::uint16_t>(width);
    }
};

// Whether codes are reached by shifting copies of a load, eight bytes at least, so that codes that lie apart stand next to
// each other.
constexpr bool in_copies(int width, std::size_t slice) { return width == 2 || width == 4 || (width == 1 && slice == 64); }

// The code of a slice that is byte `byte` of it.
constexpr std::size_t code_of(int width, std::size_t slice, std::size_t byte) {
    if (!in_copies(width, slice)) return byte;
    const std::size_t each = 8 / static_cast<std::size_t>(width), run = slice / each;
    return each * (byte % run) + byte / run;
}

// Where the bytes of a load's codes are, and by how many bits they are shifted.
struct Shifts {
    alignas(64) std::uint8_t places[64] = {};
    alignas(64) std::uint8_t bits[64] = {};
};

template <int width, std::size_t slice>
constexpr Shifts shifts_of = [] {
    Shifts made{};
    for (std::size_t byte = 0; byte < 64; ++byte) {
        if constexpr (in_copies(width, slice)) {
            // Bytes of a slice's codes, as many times as there are codes in a byte.
            constexpr std::size_t run = slice * width / 8;
            made.places[byte] = static_cast<std::uint8_t>(byte / slice * run + byte % run);
            // Of eight bytes together, which no run divides.
            if (byte % 8 == 0) made.bits[byte] = static_cast<std::uint8_t>(byte % slice / run * width);
        } else {
            // Eight codes are `width` bytes.
            made.places[byte] = static_cast<std::uint8_t>(byte / 8 * width + byte % 8);
            made.bits[byte] = static_cast<std::uint8_t>(byte % 8 * width);
        }
    }
    return made;
}();

// The values of 64 codes, a byte each, slice after slice.
template <int width, std::size_t slice>
struct Decoder {
    static constexpr bool shifted = in_copies(width, slice), spread = !shifted && width != 1 && width != 8;
    static constexpr std::size_t bytes = 8 * static_cast<std::size_t>(width);
    static constexpr __mmask64 all = ~__mmask64{0} >> (64 - bytes);
    Lookup<width> lookup;
    __m512i from, by;

    // `flipped` in every value.
    OCTAVO_TILES OCTAVO_INLINE Decoder(const std::int8_t* values, std::uint8_t flipped) : lookup(values) {
        for (__m512i& part : lookup.table) part = _mm512_xor_si512(part, _mm512_set1_epi8(static_cast<char>(flipped)));
        from = _mm512_load_si512(shifts_of<width, slice>.places), by = _mm512_load_si512(shifts_of<width, slice>.bits);
    }

    OCTAVO_TILES OCTAVO_INLINE __m512i operator()(const std::uint8_t* codes, __mmask64 present) const {
        if constexpr (width == 1 && !shifted) {
            std::uint64_t bits;
            if (present == all)
                std::memcpy(&bits, codes, sizeof bits);
            else
                bits = static_cast<std::uint64_t>(_mm_cvtsi128_si64(_mm_maskz_loadu_epi8(static_cast<__mmask16>(present), codes)));
            const __m128i both = _mm512_castsi512_si128(lookup.table[0]);
            return _mm512_mask_mov_epi8(_mm512_broadcastb_epi8(both), bits, _mm512_broadcastb_epi8(_mm_srli_epi16(both, 8)));
        }
        __m512i word;
        if (width == 1 && present == all)
            word = _mm512_broadcastq_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes)));
        else if (shifted && slice == 64 && present == all)
            word = width == 4 ? _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)))
                              : _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
        else if (width == 8)
            word = _mm512_maskz_loadu_epi8(present, codes);
        else
            word = _mm512_permutexvar_epi8(from, _mm512_maskz_loadu_epi8(present, codes));
        if constexpr (shifted) word = _mm512_srlv_epi64(word, by);
        if constexpr (spread) word = _mm512_multishift_epi64_epi8(by, word);
        return lookup(word);
    }
};

OCTAVO_TILES OCTAVO_INLINE void transpose(__m512* rows) {
    __m512 pairs[16], fours[16];
    for (int i = 0; i < 16; i += 2) {
        pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
    }
    const auto joined = [&](int low, int high, bool upper) OCTAVO_TILES OCTAVO_LAMBDA {
        const __m512d a = _mm512_castps_pd(pairs[low]), b = _mm512_castps_pd(pairs[high]);
        return _mm512_castpd_ps(upper ? _mm512_unpackhi_pd(a, b) : _mm512_unpacklo_pd(a, b));
    };
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 4; ++j) fours[i + j] = joined(i + j / 2, i + j / 2 + 2, j % 2 != 0);
    for (int i = 0; i < 4; ++i) {
        const __m512 even[2] = {_mm512_shuffle_f32x4(fours[i], fours[4 + i], 0x88),
                                _mm512_shuffle_f32x4(fours[8 + i], fours[12 + i], 0x88)};
        const __m512 odd[2] = {_mm512_shuffle_f32x4(fours[i], fours[4 + i], 0xDD),
                               _mm512_shuffle_f32x4(fours[8 + i], fours[12 + i], 0xDD)};
        rows[i] = _mm512_shuffle_f32x4(even[0], even[1], 0x88);
        rows[8 + i] = _mm512_shuffle_f32x4(even[0], even[1], 0xDD);
        rows[4 + i] = _mm512_shuffle_f32x4(odd[0], odd[1], 0x88);
        rows[12 + i] = _mm512_shuffle_f32x4(odd[0], odd[1], 0xDD);
    }
}

// Where a strip lies: rows from `row` on, loads from `load` on.
struct Place {
    std::size_t row, height, load, count;
};

// Of a row in a strip: loads that are there as a whole, and what is there of the one after them, which is the row's last.
template <int width, std::size_t slice>
struct Span {
    std::size_t whole;
    __mmask64 rest;

    OCTAVO_INLINE Span(const TileCodes& codes, const Place& at) {
        constexpr std::size_t each = Decoder<width, slice>::bytes;
        const std::size_t last = codes.loads() - 1;
        const bool ends = at.load + at.count == last + 1;
        rest = ~__mmask64{0} >> (64 - std::min(codes.row_bytes - last * each, each));
        whole = at.count - (ends && rest != Decoder<width, slice>::all ? 1 : 0);
    }
};

// Codes are fetched in the order of memory, which processors then go on with by themselves: at least the sixteen rows that
// come next, and so many bytes.
constexpr std::size_t fetched_ahead = 8192;

// Fetches what lies as far ahead as `load` lies in its row.
template <int width, std::size_t slice>
OCTAVO_TILES OCTAVO_INLINE void fetch(const TileCodes& codes, std::size_t row, std::size_t load) {
    constexpr std::size_t each = rows_in_tile * Decoder<width, slice>::bytes;
    const std::size_t ahead = std::max(rows_in_tile * codes.row_bytes, fetched_ahead);
    const std::uint8_t* const from = codes.codes + row * codes.row_bytes + load * each + ahead;
#pragma GCC unroll 16
    for (std::size_t byte = 0; byte < each; byte += 64) _mm_prefetch(from + byte, _MM_HINT_T1);
}

template <int width, std::size_t slice>
OCTAVO_TILES OCTAVO_INLINE void decode(const Decoder<width, slice>& decoder, const TileCodes& codes, const Place& at,
                                       std::int8_t* bytes) {
    constexpr std::size_t each = Decoder<width, slice>::bytes;
    const Span<width, slice> span(codes, at);
    const auto put = [&](std::size_t load, std::size_t row, __m512i found) OCTAVO_TILES OCTAVO_LAMBDA {
        std::int8_t* const to = bytes + load * rows_in_tile * codes_in_load + row * slice;
        if constexpr (slice == 64) {
            _mm512_store_si512(to, found);
        } else {
            _mm256_store_si256(reinterpret_cast<__m256i*>(to), _mm512_castsi512_si256(found));
            _mm256_store_si256(reinterpret_cast<__m256i*>(to + rows_in_tile * slice), _mm512_extracti64x4_epi64(found, 1));
        }
    };
    // Loads to fetch, as many as there are, spread over the rows.
    std::size_t fetched = 0, due = 0;
    for (std::size_t row = 0; row < at.height; ++row) {
        const std::uint8_t* const from = codes.codes + (at.row + row) * codes.row_bytes + at.load * each;
        for (due += at.count; due >= at.height; due -= at.height) fetch<width, slice>(codes, at.row, at.load + fetched++);
        for (std::size_t load = 0; load < span.whole; ++load)
            put(load, row, decoder(from + load * each, Decoder<width, slice>::all));
        if (span.whole < at.count) put(span.whole, row, decoder(from + span.whole * each, span.rest));
    }
}

// Where `summed` leaves the rows.
constexpr std::size_t summed_row(std::size_t place) { return place / 8 * 4 + place / 4 % 2 * 8 + place % 2 * 2 + place / 2 % 2; }

// The row at each place, and the place of each row.
using Permutation = std::array<std::int32_t, rows_in_tile>;
alignas(64) constexpr Permutation row_of = [] {
    Permutation found{};
    for (std::size_t place = 0; place < rows_in_tile; ++place) found[place] = static_cast<std::int32_t>(summed_row(place));
    return found;
}();
alignas(64) constexpr Permutation place_of = [] {
    Permutation found{};
    for (std::size_t place = 0; place < rows_in_tile; ++place) found[summed_row(place)] = static_cast<std::int32_t>(place);
    return found;
}();

template <bool narrow>
OCTAVO_TILES OCTAVO_INLINE __m512 loaded_scales(const Factors& scales, std::size_t start, __mmask16 present) {
    if constexpr (!narrow) return _mm512_maskz_loadu_ps(present, static_cast<const float*>(scales.data) + start);
    const auto* const from = static_cast<const std::uint16_t*>(scales.data) + start;
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(present, from)), 16));
}

// The scales of a strip, slice by slice; with `summed`, in the order that it leaves rows in.
template <bool summed, bool narrow>
OCTAVO_TILES OCTAVO_INLINE void spread_stored(const TileCodes& codes, const Place& at, float* out) {
    using Scale = std::conditional_t<narrow, std::uint16_t, float>;
    const Factors& scales = codes.scales;
    if (!scales.shared && at.load == 0) {
        const std::size_t pitch = scales.blocks * (narrow ? 2 : 4), strip = rows_in_tile * pitch;
        const std::size_t ahead = std::max<std::size_t>(1, fetched_ahead / (rows_in_tile * codes.row_bytes)) * strip;
        const auto* const from = static_cast<const char*>(scales.data) + at.row * pitch + ahead;
        for (std::size_t byte = 0; byte < strip; byte += 64) _mm_prefetch(from + byte, _MM_HINT_T1);
    }
    const std::size_t in_load = codes_in_load / codes.slice, begin = at.load * in_load, end = (at.load + at.count) * in_load;
    if (scales.blocks == 1) {
        const auto present = static_cast<__mmask16>(scales.shared ? 1 : 0xFFFFu >> (rows_in_tile - at.height));
        __m512 found = loaded_scales<narrow>(scales, scales.shared ? 0 : at.row, present);
        if (scales.shared) found = _mm512_broadcastss_ps(_mm512_castps512_ps128(found));
        if (summed) found = _mm512_permutexvar_ps(_mm512_load_si512(row_of.data()), found);
        for (std::size_t slice = begin; slice < end; ++slice, out += rows_in_tile) _mm512_store_ps(out, found);
        return;
    }
    static_assert(loads_in_strip % slices_together == 0);
    for (std::size_t slice = begin; slice < end; slice += slices_together, out += slices_together * rows_in_tile) {
        const SliceBlocks& blocks = codes.blocks[slice / slices_together];
        const auto present = static_cast<__mmask16>(blocks.present);
        __m512i places = _mm512_load_si512(blocks.place);
        if constexpr (narrow) places = _mm512_slli_epi32(places, 16);
        __m512 rows[rows_in_tile];
#pragma GCC unroll 16
        for (std::size_t row = 0; row < rows_in_tile; ++row) {
            const std::size_t own = scales.shared ? 0 : at.row + std::min(summed ? summed_row(row) : row, at.height - 1);
            const std::size_t start = own * scales.blocks + blocks.first;
            rows[row] = placed_scales(static_cast<const Scale*>(scales.data) + start, present, places);
        }
        transpose(rows);
#pragma GCC unroll 16
        for (std::size_t i = 0; i < 16; ++i) _mm512_store_ps(out + i * rows_in_tile, rows[i]);
    }
}

template <bool summed>
OCTAVO_TILES OCTAVO_INLINE void spread_scales(const TileCodes& codes, const Place& at, float* out) {
    codes.scales.narrow ? spread_stored<summed, true>(codes, at, out) : spread_stored<summed, false>(codes, at, out);
}

// To the outputs of a strip's rows, which begin with it if the strip begins its rows.
OCTAVO_TILES OCTAVO_INLINE void add_to(float* out, const Task& task, const Place& at, __m512 found) {
    const auto mask = static_cast<__mmask16>(0xFFFFu >> (16 - at.height));
    if (!task.begins || at.load != 0) found = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, out + at.row), found);
    _mm512_mask_storeu_ps(out + at.row, mask, found);
}

// Lanes of two registers, next but one to each other, added; then neighbors.
OCTAVO_TILES OCTAVO_INLINE __m512i add_halves(__m512i a, __m512i b) {
    return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}
OCTAVO_TILES OCTAVO_INLINE __m512i add_pairs(__m512i a, __m512i b) {
    const __m512 x = _mm512_castsi512_ps(a), y = _mm512_castsi512_ps(b);
    return _mm512_add_epi32(_mm512_castps_si512(_mm512_shuffle_ps(x, y, 0x88)), _mm512_castps_si512(_mm512_shuffle_ps(x, y, 0xDD)));
}

// Neighboring quarters of two registers added, and quarters next but one to each other.
OCTAVO_TILES OCTAVO_INLINE __m512i add_quarters(__m512i a, __m512i b) {
    return _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xDD));
}
OCTAVO_TILES OCTAVO_INLINE __m512i add_far_quarters(__m512i a, __m512i b) {
    return _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x44), _mm512_shuffle_i32x4(a, b, 0xEE));
}

// The sums over each quarter of four registers; register i has the rows i, i + 8, i + 4 and i + 12 in its quarters.
OCTAVO_TILES OCTAVO_INLINE __m512i sum_quarters(const __m512i* v) {
    return add_pairs(add_halves(v[0], v[2]), add_halves(v[1], v[3]));
}

// The sums over the lanes of sixteen rows, one row a lane; over each half of the lanes where slices are halves of a load.
// Halves are exchanged and added until every lane has its row.
template <std::size_t slice>
OCTAVO_TILES OCTAVO_INLINE void sum_lanes(__m512i* v, __m512i* out) {
    for (int i = 0; i < 8; ++i) v[i] = slice == 64 ? add_far_quarters(v[i], v[i + 8]) : add_quarters(v[i], v[i + 8]);
    if constexpr (slice == 64) {
        for (int i = 0; i < 4; ++i) v[i] = add_quarters(v[i], v[i + 4]);
        out[0] = sum_quarters(v);
    } else {
        const __m512i low = sum_quarters(v), high = sum_quarters(v + 4);
        out[0] = _mm512_shuffle_i32x4(low, high, 0x88), out[1] = _mm512_shuffle_i32x4(low, high, 0xDD);
    }
}

// Whether several rows of a load fit into a register, so that there are fewer to sum up.
template <int width, std::size_t slice>
constexpr bool rows_share = slice == 64 && in_copies(width, slice);

// Sixteen rows of a load, two, four or eight a register. What is done with them is cut into three, since none of these waits for
// another where they belong to three loads.
template <int width>
struct SharedRows {
    static constexpr std::size_t registers = rows_in_tile * static_cast<std::size_t>(width) / 8;
    __m512i of[registers];

    OCTAVO_TILES OCTAVO_INLINE void read(const std::uint8_t* const* rows, std::size_t at) {
        const auto half = [&](std::size_t row) OCTAVO_TILES OCTAVO_LAMBDA {
            return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[row] + at));
        };
        const auto quarter = [&](std::size_t row) OCTAVO_TILES OCTAVO_LAMBDA {
            const auto* const from = rows[row] + at;
            if constexpr (width == 2) return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
            const __m128 first = _mm_castsi128_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
            return _mm_castps_si128(_mm_loadh_pi(first, reinterpret_cast<const __m64*>(rows[row + 2] + at)));
        };
#pragma GCC unroll 8
        for (std::size_t i = 0; i < registers; ++i) {
            if constexpr (width == 4) {
                of[i] = _mm512_inserti64x4(_mm512_castsi256_si512(half(i)), half(i + 8), 1);
            } else {
                of[i] = _mm512_inserti32x4(_mm512_castsi128_si512(quarter(i)), quarter(i + 8), 1);
                of[i] = _mm512_inserti32x4(_mm512_inserti32x4(of[i], quarter(i + 4), 2), quarter(i + 12), 3);
            }
        }
    }

    // Where the inputs of a step lie, as often as there are rows in a register.
    static OCTAVO_TILES OCTAVO_INLINE __m512i repeated(const std::int8_t* inputs) {
        const auto* const few = reinterpret_cast<const __m128i*>(inputs);
        if constexpr (width == 4) return _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(inputs)));
        return width == 2 ? _mm512_broadcast_i32x4(_mm_loadu_si128(few)) : _mm512_broadcastq_epi64(_mm_loadl_epi64(few));
    }

    // Sums of products over parts of each row.
    OCTAVO_TILES OCTAVO_INLINE SharedRows times(const Lookup<width>& lookup, const std::int8_t* inputs) const {
        SharedRows sums;
        for (__m512i& sum : sums.of) sum = _mm512_setzero_si512();
#pragma GCC unroll 8
        for (unsigned step = 0; step < 8 / width; ++step) {
            const __m512i some = repeated(inputs + 8 * width * step);
#pragma GCC unroll 8
            for (std::size_t i = 0; i < registers; ++i)
                sums.of[i] = _mm512_dpbusd_epi32(sums.of[i], lookup(_mm512_srli_epi32(of[i], step * width)), some);
        }
        return sums;
    }

    // One row a lane, as sum_lanes leaves them.
    OCTAVO_TILES OCTAVO_INLINE __m512i summed() const {
        if constexpr (width == 1) return add_pairs(of[0], of[1]);
        if constexpr (width == 2) return sum_quarters(of);
        __m512i found[4];
        for (std::size_t i = 0; i < 4; ++i) found[i] = add_quarters(of[i], of[i + registers / 2]);
        return sum_quarters(found);
    }
};

// One vector: as many instructions as tiles take, and memory is read in a steadier stream.
template <int width, std::size_t slice>
OCTAVO_TILES OCTAVO_INLINE void multiply_one(const Decoder<width, slice>& decoder, const TileCodes& codes, float unit, const Task& task,
                                             std::size_t vector, const Place& at, const Strip& held) {
    const float* const arranged = task.inputs + vector * task.pitch;
    constexpr std::size_t in_load = codes_in_load / slice, each = Decoder<width, slice>::bytes;
    const std::size_t first = at.load * in_load;
    const auto* const inputs = reinterpret_cast<const std::int8_t*>(arranged) + first * slice;
    const float* const scales = arranged + codes.slices() * slice / 4 + first;
    const float* const bases = scales + padded(codes.slices());
    const Span<width, slice> span(codes, at);
    const std::uint8_t* rows[rows_in_tile];
    for (std::size_t row = 0; row < rows_in_tile; ++row)
        rows[row] = codes.codes + (at.row + std::min(row, at.height - 1)) * codes.row_bytes + at.load * each;
    __m512 total = _mm512_setzero_ps();
    const auto add_slice = [&](std::size_t place, __m512i sum) OCTAVO_TILES OCTAVO_LAMBDA {
        std::int32_t base;
        std::memcpy(&base, bases + place, sizeof base);
        const __m512 scale = _mm512_mul_ps(_mm512_load_ps(held.scales + place * rows_in_tile), _mm512_set1_ps(scales[place]));
        total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(sum, _mm512_set1_epi32(base))), scale, total);
    };
    const auto add = [&](std::size_t load, __mmask64 present) OCTAVO_TILES OCTAVO_LAMBDA {
        const __m512i x = _mm512_loadu_si512(inputs + load * codes_in_load);
        __m512i found[rows_in_tile], sums[in_load];
        fetch<width, slice>(codes, at.row, at.load + load);
#pragma GCC unroll 16
        for (std::size_t row = 0; row < rows_in_tile; ++row)
            found[row] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), decoder(rows[row] + load * each, present), x);
        sum_lanes<slice>(found, sums);
        for (std::size_t i = 0; i < in_load; ++i) add_slice(load * in_load + i, sums[i]);
    };
    if constexpr (rows_share<width, slice>) {
        if (span.whole != 0) {
            SharedRows<width> next, sums;
            next.read(rows, 0);
            for (std::size_t load = 0; load < span.whole; ++load) {
                fetch<width, slice>(codes, at.row, at.load + load);
                const SharedRows<width> found = next.times(decoder.lookup, inputs + load * codes_in_load);
                if (load + 1 < span.whole) next.read(rows, (load + 1) * each);
                if (load != 0) add_slice(load - 1, sums.summed());
                sums = found;
            }
            add_slice(span.whole - 1, sums.summed());
        }
    } else {
        for (std::size_t load = 0; load < span.whole; ++load) add(load, Decoder<width, slice>::all);
    }
    if (span.whole < at.count) add(span.whole, span.rest);
    const __m512 found = _mm512_mul_ps(total, _mm512_set1_ps(unit));
    add_to(task.out + vector * task.out_pitch, task, at, _mm512_permutexvar_ps(_mm512_load_si512(place_of.data()), found));
}

// Calls work(row) for each row of a tile, the row being a constant.
template <typename Work, std::size_t... row>
OCTAVO_TILES OCTAVO_INLINE void each_of(const Work& work, std::index_sequence<row...>) {
    (work(std::integral_constant<std::size_t, row>()), ...);
}

template <typename Work>
OCTAVO_TILES OCTAVO_INLINE void each_row(const Work& work) {
    each_of(work, std::make_index_sequence<rows_in_tile>());
}

// Adds the totals of a strip's rows, each lane a vector, to the outputs of vectors from `vector` on.
OCTAVO_TILES OCTAVO_INLINE void add_totals(__m512* totals, float unit, const Task& task, const Place& at, std::size_t vector) {
    transpose(totals);
    const std::size_t vectors = std::min(vectors_in_tile, task.batch - vector);
    for (std::size_t b = 0; b < vectors; ++b)
        add_to(task.out + (vector + b) * task.out_pitch, task, at, _mm512_mul_ps(totals[b], _mm512_set1_ps(unit)));
}

// The inputs of up to sixteen vectors: of each slice the bytes, the scales, and what sums begin with.
template <std::size_t slice>
struct Group {
    const std::int8_t* bytes;
    const float* scales;
    const float* starts;

    OCTAVO_INLINE Group(const TileCodes& codes, const Task& task, std::size_t vector, std::size_t first) {
        const float* const from = task.inputs + vector * task.pitch;
        bytes = reinterpret_cast<const std::int8_t*>(from) + first * slice * vectors_in_tile;
        scales = from + (codes.slices() * slice / 4 + first) * vectors_in_tile;
        starts = scales + padded(codes.slices()) * vectors_in_tile;
    }
};

// By AMX.
template <std::size_t slice>
OCTAVO_TILES OCTAVO_INLINE void multiply_many(const TileCodes& codes, float unit, const Task& task, const Place& at, Strip& held) {
    constexpr std::size_t in_load = codes_in_load / slice;
    const std::size_t first = at.load * in_load, count = at.count * in_load;
    for (std::size_t vector = 0; vector < task.batch; vector += vectors_in_tile) {
        const Group<slice> inputs(codes, task, vector, first);
        // Every index of the sums is a constant, so that they stay in registers.
        __m512 totals[rows_in_tile];
        each_row([&](auto row) OCTAVO_TILES OCTAVO_LAMBDA { totals[row] = _mm512_setzero_ps(); });
        const auto multiply = [&](std::size_t i) OCTAVO_TILES OCTAVO_LAMBDA {
            const std::int8_t* const codes_of = held.bytes + i * rows_in_tile * slice;
            const std::int8_t* const inputs_of = inputs.bytes + i * slice * vectors_in_tile;
            if (i % 2 == 0) {
                OCTAVO_CLEAR_TILE(0);
                OCTAVO_LOAD_TILE(1, codes_of, slice);
                OCTAVO_LOAD_TILE(2, inputs_of, 4 * vectors_in_tile);
                OCTAVO_MULTIPLY_TILES(0, 1, 2);
            } else {
                OCTAVO_CLEAR_TILE(3);
                OCTAVO_LOAD_TILE(4, codes_of, slice);
                OCTAVO_LOAD_TILE(5, inputs_of, 4 * vectors_in_tile);
                OCTAVO_MULTIPLY_TILES(3, 4, 5);
            }
        };
        multiply(0);
        for (std::size_t i = 0; i < count; ++i) {
            // A product takes some fifty cycles: the next one begins before this one is looked at.
            if (i + 1 < count) multiply(i + 1);
            std::int32_t* const sums = held.sums[i % 2];
            if (i % 2 == 0)
                OCTAVO_STORE_TILE(0, sums, 4 * vectors_in_tile);
            else
                OCTAVO_STORE_TILE(3, sums, 4 * vectors_in_tile);
            const __m512 each = _mm512_load_ps(inputs.scales + i * vectors_in_tile);
            const float* const own = held.scales + i * rows_in_tile;
            each_row([&](auto row) OCTAVO_TILES OCTAVO_LAMBDA {
                const __m512 scale = _mm512_mul_ps(_mm512_set1_ps(own[row]), each);
                const __m512 sum = _mm512_cvtepi32_ps(_mm512_load_si512(sums + row * vectors_in_tile));
                totals[row] = _mm512_fmadd_ps(sum, scale, totals[row]);
            });
        }
        __m512 found[rows_in_tile];
        each_row([&](auto row) OCTAVO_TILES OCTAVO_LAMBDA { found[row] = totals[row]; });
        add_totals(found, unit, task, at, vector);
    }
}

// Rows whose sums and totals are in registers.
constexpr std::size_t rows_at_once = 8;

// The same without AMX: a vector a lane. Values have no sign.
template <std::size_t slice>
OCTAVO_TILES OCTAVO_INLINE void multiply_lanes(const TileCodes& codes, float unit, const Task& task, const Place& at, const Strip& held) {
    constexpr std::size_t in_load = codes_in_load / slice;
    const std::size_t first = at.load * in_load, count = at.count * in_load;
    for (std::size_t vector = 0; vector < task.batch; vector += vectors_in_tile) {
        const Group<slice> inputs(codes, task, vector, first);
        __m512 found[rows_in_tile];
        for (std::size_t row = 0; row < rows_in_tile; row += rows_at_once) {
            __m512 totals[rows_at_once];
            for (__m512& total : totals) total = _mm512_setzero_ps();
            for (std::size_t i = 0; i < count; ++i) {
                const std::int8_t* const codes_of = held.bytes + (i * rows_in_tile + row) * slice;
                const std::int8_t* const inputs_of = inputs.bytes + i * slice * vectors_in_tile;
                __m512i sums[rows_at_once];
                for (__m512i& sum : sums) sum = _mm512_load_si512(inputs.starts + i * vectors_in_tile);
#pragma GCC unroll 16
                for (std::size_t byte = 0; byte < slice; byte += 4) {
                    const __m512i some = _mm512_load_si512(inputs_of + byte * vectors_in_tile);
                    for (std::size_t r = 0; r < rows_at_once; ++r) {
                        std::int32_t four;
                        std::memcpy(&four, codes_of + r * slice + byte, sizeof four);
                        sums[r] = _mm512_dpbusd_epi32(sums[r], _mm512_set1_epi32(four), some);
                    }
                }
                const __m512 each = _mm512_load_ps(inputs.scales + i * vectors_in_tile);
                const float* const own = held.scales + i * rows_in_tile + row;
                for (std::size_t r = 0; r < rows_at_once; ++r) {
                    const __m512 scale = _mm512_mul_ps(_mm512_set1_ps(own[r]), each);
                    totals[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[r]), scale, totals[r]);
                }
            }
            for (std::size_t r = 0; r < rows_at_once; ++r) found[row + r] = totals[r];
        }
        add_totals(found, unit, task, at, vector);
    }
}

// Calls run(place) for each strip of a task.
template <typename Run>
OCTAVO_TILES OCTAVO_INLINE void in_strips(const TileCodes& codes, const Task& task, const Run& run) {
    const std::size_t loads = codes.loads();
    for (std::size_t row = task.begin; row < task.end; row += rows_in_tile)
        for (std::size_t load = 0; load < loads; load += loads_in_strip)
            run(Place{row, std::min(rows_in_tile, task.end - row), load, std::min(loads_in_strip, loads - load)});
}

template <int width, std::size_t slice>
OCTAVO_TILES void add_few(const TileCodes& codes, float unit, const Task& task) {
    const Decoder<width, slice> decoder(codes.values, middle);
    Strip& held = strip();
    in_strips(codes, task, [&](const Place& at) OCTAVO_TILES OCTAVO_LAMBDA {
        spread_scales<true>(codes, at, held.scales);
        for (std::size_t vector = 0; vector < task.batch; ++vector) multiply_one(decoder, codes, unit, task, vector, at, held);
    });
}

template <int width, std::size_t slice>
OCTAVO_TILES void add_lanes(const TileCodes& codes, float unit, const Task& task) {
    const Decoder<width, slice> decoder(codes.values, middle);
    Strip& held = strip();
    in_strips(codes, task, [&](const Place& at) OCTAVO_TILES OCTAVO_LAMBDA {
        decode(decoder, codes, at, held.bytes);
        spread_scales<false>(codes, at, held.scales);
        multiply_lanes<slice>(codes, unit, task, at, held);
    });
}

template <int width, std::size_t slice>
OCTAVO_TILES void add_many(const TileCodes& codes, float unit, const Task& task) {
    if (!matrices_supported()) return add_lanes<width, slice>(codes, unit, task);
    const Decoder<width, slice> decoder(codes.values, 0);
    const Shapes shapes(slice);
    static_assert(sizeof shapes == 64);
    asm volatile("ldtilecfg %0" ::"m"(shapes) : "memory");
    Strip& held = strip();
    in_strips(codes, task, [&](const Place& at) OCTAVO_TILES OCTAVO_LAMBDA {
        decode(decoder, codes, at, held.bytes);
        spread_scales<false>(codes, at, held.scales);
        multiply_many<slice>(codes, unit, task, at, held);
    });
    asm volatile("tilerelease" ::: "memory");
}

template <int width, std::size_t slice>
void add_rows(const TileCodes& codes, float unit, const Task& task) {
    room_for(task.batch) == 1 ? add_few<width, slice>(codes, unit, task) : add_many<width, slice>(codes, unit, task);
}

}  // namespace

TileCodes tile_codes(const std::uint8_t* codes, std::size_t row_bytes, std::size_t count, int width,
                     const std::int8_t* values, const Factors& scales) {
    const bool long_blocks = scales.blocks == 1 || scales.block % 64 == 0;
    const std::size_t slice = long_blocks ? 64 : scales.block % 32 == 0 ? 32 : 0;
    TileCodes made{codes, row_bytes, count, width, slice, values, scales, {}, {}};
    if (slice == 0) return made;
    for (std::size_t byte = 0; byte < codes_in_load; ++byte)
        made.order[byte] = static_cast<std::uint8_t>(byte / slice * slice + code_of(width, slice, byte % slice));
    const auto block_of = [&](std::size_t number) { return std::min(number * slice / scales.block, scales.blocks - 1); };
    for (std::size_t begin = 0; begin < made.slices(); begin += slices_together) {
        SliceBlocks& blocks = made.blocks.emplace_back();
        const std::size_t last = block_of(std::min(begin + slices_together, made.slices()) - 1);
        blocks.first = block_of(begin);
        blocks.present = static_cast<std::uint16_t>(0xFFFFu >> (15 - (last - blocks.first)));
        for (std::size_t i = 0; i < slices_together; ++i)
            blocks.place[i] = static_cast<std::int32_t>(std::min(block_of(begin + i), last) - blocks.first);
    }
    return made;
}

bool tiles_supported() {
    static const bool supported = bytes_supported() && __builtin_cpu_supports("avx512dq");
    return supported;
}

std::size_t tiles_few() { return matrices_supported() ? 1 : 6; }

std::size_t tiles_pitch(const TileCodes& codes) {
    return codes.slices() * codes.slice / 4 + 2 * padded(codes.slices());
}

bool tiles_arrange_like(const TileCodes& codes, const TileCodes& others) {
    const auto shifted = [](const TileCodes& each) { return in_copies(each.width, each.slice); };
    const bool alike = codes.width == others.width || (!shifted(codes) && !shifted(others));
    return alike && codes.slice == others.slice && codes.count == others.count;
}

OCTAVO_TILES void tiles_arrange(const TileCodes& codes, const float* plain, std::size_t pitch, std::size_t vectors,
                                std::size_t room, std::size_t begin, std::size_t end, float* out) {
    const std::size_t slice = codes.slice, in_load = codes_in_load / slice, first = begin * in_load, slices = (end - begin) * in_load;
    const std::size_t count = slices * slice;
    static thread_local std::vector<std::int8_t> bytes;
    static thread_local std::vector<float> scales;
    bytes.resize(std::max(bytes.size(), room * count));
    scales.resize(std::max(scales.size(), room * slices));
    std::fill(bytes.begin() + static_cast<std::ptrdiff_t>(vectors * count),
              bytes.begin() + static_cast<std::ptrdiff_t>(room * count), std::int8_t{0});
    std::fill(scales.begin() + static_cast<std::ptrdiff_t>(vectors * slices),
              scales.begin() + static_cast<std::ptrdiff_t>(room * slices), 0.0f);
    for (std::size_t v = 0; v < vectors; ++v)
        bytes_narrow(plain + v * pitch + first * slice, count, slice, 1.0f, bytes.data() + v * count, scales.data() + v * slices);
    float* const numbers = out + codes.slices() * slice / 4 * room + first * room;
    for (std::size_t s = 0; s < slices; ++s)
        for (std::size_t v = 0; v < room; ++v) numbers[s * room + v] = scales[v * slices + s];
    // Values without a sign are too large by the middle, by so much that it is what sums begin with.
    auto* const starts = reinterpret_cast<std::int32_t*>(numbers + padded(codes.slices()) * room);
    const __m512i ones = _mm512_set1_epi8(1), less = _mm512_set1_epi32(-middle);
    const __m512i order = _mm512_load_si512(codes.order);
    float* const tiles = out + first * slice / 4 * room;
    for (std::size_t at = 0; at < count; at += 64) {
        __m512 found[vectors_in_tile];
        for (std::size_t v = 0; v < room; ++v)
            found[v] = _mm512_castsi512_ps(_mm512_permutexvar_epi8(order, _mm512_loadu_si512(bytes.data() + v * count + at)));
        if (room > 1) transpose(found);
        for (std::size_t v = 0; v < room; ++v) _mm512_store_ps(tiles + at / 4 * room + 16 * v, found[v]);
        if (room > 1 && matrices_supported()) continue;
        for (std::size_t s = 0; s < in_load; ++s) {
            std::int32_t* const start = starts + (at / slice + s) * room;
            if (room > 1) {
                __m512i sum = _mm512_setzero_si512();
                for (std::size_t v = s * slice / 4; v < (s + 1) * slice / 4; ++v)
                    sum = _mm512_dpbusd_epi32(sum, ones, _mm512_castps_si512(found[v]));
                _mm512_store_si512(start, _mm512_mullo_epi32(sum, less));
            } else {
                const auto present = static_cast<__mmask16>((slice == 64 ? 0xFFFFu : 0xFFu) << 8 * s);
                const __m512i sum = _mm512_dpbusd_epi32(_mm512_setzero_si512(), ones, _mm512_castps_si512(found[0]));
                *start = -middle * _mm512_mask_reduce_add_epi32(present, sum);
            }
        }
    }
}

void tiles_add(const TileCodes& codes, float unit, const Task& task) {
    with_width(codes.width, [&]<int width>() {
        if (codes.slice == 64)
            add_rows<width, 64>(codes, unit, task);
        else
            add_rows<width, 32>(codes, unit, task);
    });
}

}  // namespace octavo

#endif
