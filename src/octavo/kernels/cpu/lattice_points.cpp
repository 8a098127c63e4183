#include "lattice_points.hpp"

#include <cmath>

#include "generic.hpp"
#include "vectors.hpp"

namespace octavo {
namespace {

// A coordinate of sixteen vectors is one of the processor's.
static_assert(vectors_at_once == numbers_at_once);

OCTAVO_INLINE Vector absolute(Vector x) { return x < 0 ? -x : x; }

// Ties go down.
OCTAVO_INLINE Vector nearest_integer(Vector x) {
    x -= 0.5f;
    const Vector whole = __builtin_convertvector(__builtin_convertvector(x, Integers), Vector);
    return whole < x ? whole + 1.0f : whole;
}

template <std::size_t dimension>
OCTAVO_INLINE void nearest_even(const Vector* x, Vector* out) {
    Integers sum{}, worst{};
    Vector most{};
    for (std::size_t i = 0; i < dimension; ++i) {
        out[i] = nearest_integer(x[i]);
        sum += __builtin_convertvector(out[i], Integers);
        const Vector error = absolute(x[i] - out[i]);
        worst = error > most ? Integers{} + static_cast<std::int32_t>(i) : worst;
        most = error > most ? error : most;
    }
    const Integers odd = (sum & 1) != 0;
    for (std::size_t i = 0; i < dimension; ++i) {
        const Vector other_way = x[i] > out[i] ? Vector{} + 1.0f : Vector{} - 1.0f;
        const Integers moved = odd & (worst == static_cast<std::int32_t>(i));
        out[i] = moved ? out[i] + other_way : out[i];
    }
}

template <std::size_t dimension>
OCTAVO_INLINE void nearest(const Vector* x, Vector* out) {
    nearest_even<dimension>(x, out);
    if constexpr (dimension == 8) {
        Vector moved[dimension], half[dimension], to_whole{}, to_half{};
        for (std::size_t i = 0; i < dimension; ++i) moved[i] = x[i] - 0.5f;
        nearest_even<dimension>(moved, half);
        for (std::size_t i = 0; i < dimension; ++i) {
            half[i] += 0.5f;
            to_whole += (x[i] - out[i]) * (x[i] - out[i]);
            to_half += (x[i] - half[i]) * (x[i] - half[i]);
        }
        for (std::size_t i = 0; i < dimension; ++i) out[i] = to_half < to_whole ? half[i] : out[i];
    }
}

// Digit `i` of sixteen vectors.
OCTAVO_INLINE Vector digit(const std::uint8_t* digits, std::size_t dimension, std::size_t i) {
    Vector found;
    for (std::size_t v = 0; v < vectors_at_once; ++v) found[v] = static_cast<float>(digits[v * dimension + i]);
    return found;
}

OCTAVO_INLINE void put(Vector found, std::size_t dimension, std::size_t i, float* points) {
    for (std::size_t v = 0; v < vectors_at_once; ++v) points[v * dimension + i] = found[v];
}

template <std::size_t dimension>
OCTAVO_INLINE void voronoi_of(const Voronoi& code, const std::uint8_t* digits, std::size_t vectors, float* points) {
    const float size = static_cast<float>(code.size);
    for (std::size_t v = 0; v < vectors; v += vectors_at_once, digits += vectors_at_once * dimension, points += vectors_at_once * dimension) {
        Vector x[dimension] = {}, mirrored[dimension], found[dimension];
        for (std::size_t i = 0; i < dimension; ++i) {
            const Vector own = digit(digits, dimension, i);
            for (std::size_t j = 0; j < dimension; ++j) x[j] += own * code.basis[i * dimension + j];
        }
        for (std::size_t j = 0; j < dimension; ++j) {
            x[j] -= code.offset[j];
            mirrored[j] = -x[j] / size;
        }
        nearest<dimension>(mirrored, found);
        for (std::size_t j = 0; j < dimension; ++j) put(x[j] + size * found[j], dimension, j, points);
    }
}

OCTAVO_INLINE void voronoi(const Voronoi& code, const std::uint8_t* digits, std::size_t vectors, float* points) {
    if (code.dimension == 4)
        voronoi_of<4>(code, digits, vectors, points);
    else
        voronoi_of<8>(code, digits, vectors, points);
}

// e^x - 1 of x from 0 on; e^87 - 1 of larger ones.
OCTAVO_INLINE Vector exponential_less_one(Vector x) {
    constexpr float reach = 87.0f;
    x = x > reach ? Vector{} + reach : x;
    const auto [power, rest, series] = split_exponential(x);
    return (series * rest * rest + rest) * power + (power - 1.0f);
}

OCTAVO_INLINE void companded(const Companded& code, const std::uint8_t* digits, std::size_t vectors, float* points) {
    const std::size_t dimension = code.dimension;
    const float middle = static_cast<float>(code.size - 1) / 2, logarithm = std::log1p(code.mu);
    for (std::size_t v = 0; v < vectors; v += vectors_at_once, digits += vectors_at_once * dimension, points += vectors_at_once * dimension) {
        Vector z[largest_dimension];
        for (std::size_t j = 0; j < dimension; ++j) z[j] = digit(digits, dimension, j) - middle;
        for (std::size_t i = 0; i < dimension; ++i) {
            Vector y{};
            for (std::size_t j = 0; j < dimension; ++j) y += z[j] * code.basis[i * dimension + j];
            const Vector size = exponential_less_one(absolute(y) * logarithm) / code.mu;
            put(y < 0 ? -size : size, dimension, i, points);
        }
    }
}

#define OCTAVO_LATTICE(name, attributes)                                                                          \
    attributes void voronoi_##name(const Voronoi& code, const std::uint8_t* digits, std::size_t vectors,          \
                                   float* points) {                                                               \
        voronoi(code, digits, vectors, points);                                                                   \
    }                                                                                                             \
    attributes void companded_##name(const Companded& code, const std::uint8_t* digits, std::size_t vectors,      \
                                     float* points) {                                                             \
        companded(code, digits, vectors, points);                                                                 \
    }                                                                                                             \
    constexpr LatticeLoops name##_lattice{voronoi_##name, companded_##name};

OCTAVO_LATTICE(plain, )
#if OCTAVO_X86
OCTAVO_LATTICE(avx2, __attribute__((target("avx2"))))
OCTAVO_LATTICE(avx512, __attribute__((target("avx512f"))))
#endif

}  // namespace

const LatticeLoops& choose_lattice(bool portable) {
#if OCTAVO_X86
    if (!portable && __builtin_cpu_supports("avx512f")) return avx512_lattice;
    if (!portable && __builtin_cpu_supports("avx2")) return avx2_lattice;
#endif
    (void)portable;
    return plain_lattice;
}

}  // namespace octavo
