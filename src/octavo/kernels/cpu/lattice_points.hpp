// Lattice codes to points, sixteen vectors at a time. The rules are those of octavo/kernels/reference/lattice.py.
#pragma once

#include <cstddef>
#include <cstdint>

namespace octavo {

constexpr std::size_t vectors_at_once = 16;

// A Voronoi code of D4 (dimension 4) or E8 (8): digits below `size`.
struct Voronoi {
    std::size_t dimension;
    std::uint32_t size;
    const float* basis;   // [dimension, dimension], rows are basis vectors
    const float* offset;  // [dimension]
    const float* listed;  // [size^dimension, dimension], the point of each code if there are few, the first digit changing
                          // fastest; else null
};

// Half-integers behind digits below `size`, times a basis, expanded by a μ-law.
struct Companded {
    std::size_t dimension;
    std::uint32_t size;
    const float* basis;  // [dimension, dimension], columns are basis vectors
    float mu;
};

constexpr std::size_t largest_dimension = 32;

struct LatticeLoops {
    // points [vectors, dimension] of digits [vectors, dimension]; `vectors` is a multiple of vectors_at_once.
    void (*voronoi)(const Voronoi& code, const std::uint8_t* digits, std::size_t vectors, float* points);
    void (*companded)(const Companded& code, const std::uint8_t* digits, std::size_t vectors, float* points);
};

const LatticeLoops& choose_lattice(bool portable);

}  // namespace octavo
