// Codes packed in columns of unequal width. Defined in octavo/kernels/reference/column_codes.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "codebook.hpp"

namespace octavo {

// Bits that a column's codes may take.
constexpr std::uint8_t column_widths[] = {0, 2, 3, 4, 5, 6, 7, 8, 16};
constexpr std::size_t column_width_count = sizeof(column_widths);

// counts[column * column_width_count + k]: how many codes of a column fit into width k and into none before it.
void count_widths(const std::int16_t* codes, Shape shape, std::int64_t* counts, std::size_t threads);

// The next columns of the order, all of one width; a row of them takes `pitch` bytes of `out`.
struct ColumnGroup {
    int width;
    std::size_t count;
    std::uint8_t* out;
    std::size_t pitch;
};

// Codes that do not fit their columns.
struct FarCodes {
    std::int32_t* row;
    std::int32_t* column;
    std::int16_t* code;
    std::size_t count;
};

// Packs the codes of the groups, which take all columns together; codes that do not fit as 0, and these are written to `far`,
// row after row. Returns whether there are far.count of them; if not, `far` is not written.
bool pack_columns(const std::int16_t* codes, Shape shape, const std::int32_t* order, const std::vector<ColumnGroup>& groups,
                  const FarCodes& far, std::size_t threads);

}  // namespace octavo
