// Decodes entropy-coded streams that an encoder wrote, and damaged ones, and packs columns, on guarded arrays.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "ans.hpp"
#include "column_codes.hpp"
#include "guarded.hpp"

namespace {

namespace ans = octavo::ans;

std::mt19937 draws(0);

// A number from low to high.
int any(int low, int high) { return std::uniform_int_distribution<int>(low, high)(draws); }

[[noreturn]] void fail(const char* what) {
    std::printf("%s\n", what);
    std::exit(1);
}

template <typename T>
T* copied(const std::vector<T>& values) {
    T* const found = guarded<T>(values.size());
    std::copy(values.begin(), values.end(), found);
    return found;
}

// Tables of symbols around 0; some are absent where `gaps` allows it.
std::vector<ans::Table> random_tables(std::size_t number, bool gaps) {
    std::vector<ans::Table> tables(number);
    for (ans::Table& table : tables) {
        if (gaps && any(0, 5) == 0) continue;
        std::vector<std::uint32_t> bounds{0, ans::whole};
        for (int symbol = any(2, 40); symbol > 1; --symbol)
            bounds.push_back(any(0, 3) == 0 ? ans::whole - static_cast<std::uint32_t>(any(0, 30))
                                            : static_cast<std::uint32_t>(any(0, ans::whole)));
        std::sort(bounds.begin(), bounds.end());
        table = {copied(bounds), static_cast<std::uint32_t>(bounds.size() - 1), any(-20, 0)};
    }
    return tables;
}

// An integer that a table has a code for, else 0.
std::int16_t coded(const ans::Table& table) {
    for (int tries = 0; table.size != 0 && tries < 1000; ++tries) {
        const auto symbol = static_cast<std::uint32_t>(any(0, static_cast<int>(table.size) - 1));
        if (table.cumulative[symbol + 1] > table.cumulative[symbol])
            return static_cast<std::int16_t>(table.lowest + static_cast<std::int32_t>(symbol));
    }
    return 0;
}

std::vector<std::uint32_t> damaged(std::vector<std::uint32_t> words) {
    const int kind = any(0, 3);
    if (kind == 0 && !words.empty()) words[static_cast<std::size_t>(any(0, static_cast<int>(words.size()) - 1))] ^= draws();
    if (kind == 1) words.resize(words.size() / 2);
    if (kind == 2) words.push_back(static_cast<std::uint32_t>(draws()));
    if (kind == 3)
        for (std::uint32_t& word : words) word = static_cast<std::uint32_t>(draws());
    return words;
}

struct Problem {
    ans::Grid grid;
    ans::Machine machine;
    std::vector<ans::Table> tables;
};

Problem random_problem(bool gaps, bool by_columns) {
    const std::size_t rows = static_cast<std::size_t>(any(1, 30)), columns = static_cast<std::size_t>(any(1, 40));
    std::vector<std::int16_t> row(rows), column(columns);
    for (auto* side : {&row, &column})
        for (std::int16_t& scale : *side) scale = static_cast<std::int16_t>(any(0, 9) == 0 ? any(-32768, 32767) : any(-20, 40));
    const std::size_t side = by_columns ? columns : rows;
    const ans::Grid grid{copied(row), copied(column), rows, columns, any(0, 2),
                         static_cast<std::size_t>(any(1, static_cast<int>(side)))};
    const std::size_t states = by_columns ? static_cast<std::size_t>(any(1, 64)) : 1;
    std::vector<std::uint8_t> next(2 * states), quantizer(states);
    for (std::uint8_t& state : next) state = static_cast<std::uint8_t>(any(0, static_cast<int>(states) - 1));
    if (states > 1)
        for (std::uint8_t& set : quantizer) set = static_cast<std::uint8_t>(any(0, 1));
    const std::size_t sets = std::size_t{1} + *std::max_element(quantizer.begin(), quantizer.end());
    return {grid, {copied(next), copied(quantizer), states}, random_tables(sets * grid.contexts(), gaps)};
}

// Indices that decoding finds in random words, which is to say some that the tables have codes for.
void check_rows(const Problem& problem) {
    const ans::Grid& grid = problem.grid;
    const ans::Search search(problem.tables);
    const std::size_t size = grid.rows * grid.columns, strips = grid.strips();
    std::int16_t *indices = guarded<std::int16_t>(size), *out = guarded<std::int16_t>(size);
    std::uint64_t* coders = guarded<std::uint64_t>(strips * (ans::lanes + 1));
    std::uint8_t* states = guarded<std::uint8_t>(grid.columns);
    const auto decode = [&](const std::vector<std::uint32_t>& words, const ans::Offsets& offsets, bool more, std::int16_t* to) {
        return ans::decode_rows(copied(words), offsets, grid, problem.machine, search, any(0, 1) == 0 && to == out, coders, states,
                                more, to, 1);
    };
    const auto top = [&] {
        std::fill_n(coders, strips * (ans::lanes + 1), 0);
        std::fill_n(states, grid.columns, std::uint8_t{0});
    };
    std::vector<std::uint32_t> noise(strips * (ans::head + size));
    for (std::uint32_t& word : noise) word = static_cast<std::uint32_t>(draws()) | 1u << 31;
    ans::Offsets offsets{0};
    for (std::size_t strip = 0; strip < strips; ++strip) offsets.push_back(offsets.back() + ans::head + size);
    top();
    if (!decode(noise, offsets, true, indices)) return;  // a table that is not there
    const std::size_t stride = ans::room(grid.rows * grid.extent);
    std::uint32_t* const room = guarded<std::uint32_t>(strips * stride);
    std::vector<std::int64_t> lengths(strips);
    if (!ans::encode_rows(indices, grid, problem.machine, problem.tables, room, lengths.data(), 1)) fail("rows are not coded");
    std::vector<std::uint32_t> words;
    offsets = {0};
    for (std::size_t strip = 0; strip < strips; ++strip) {
        words.insert(words.end(), room + strip * stride, room + strip * stride + lengths[strip]);
        offsets.push_back(words.size());
    }
    top();
    if (!ans::decode_rows(copied(words), offsets, grid, problem.machine, search, false, coders, states, false, out, 1) ||
        !std::equal(out, out + size, indices))
        fail("rows do not come back");
    for (int time = 0; time < 4; ++time) {
        const std::vector<std::uint32_t> other = damaged(words);
        ans::Offsets bounds(strips + 1);
        for (std::size_t strip = 1; strip < strips; ++strip)
            bounds[strip] = static_cast<std::size_t>(any(static_cast<int>(bounds[strip - 1]), static_cast<int>(other.size())));
        bounds[strips] = other.size();
        top();
        if (time % 2 != 0) {  // a place that nothing led to
            for (std::size_t i = 0; i < strips * (ans::lanes + 1); ++i) coders[i] = std::uint64_t{draws()} << any(0, 32);
            for (std::size_t strip = 0; strip < strips; ++strip) coders[(strip + 1) * (ans::lanes + 1) - 1] %= 40;
            for (std::size_t j = 0; j < grid.columns; ++j)
                states[j] = static_cast<std::uint8_t>(any(0, static_cast<int>(problem.machine.states) - 1));
        }
        decode(other, bounds, any(0, 1) == 0, out);
    }
}

void check_groups(const Problem& problem) {
    const ans::Grid& grid = problem.grid;
    const ans::Search search(problem.tables);
    const std::size_t size = grid.rows * grid.columns, blocks = grid.grouped();
    std::int16_t* const out = guarded<std::int16_t>(size);
    std::vector<std::uint32_t> words(static_cast<std::size_t>(any(0, static_cast<int>(size))));
    for (std::uint32_t& word : words) word = static_cast<std::uint32_t>(draws());
    ans::Offsets bounds(blocks + 1);
    for (std::size_t block = 1; block < blocks; ++block)
        bounds[block] = static_cast<std::size_t>(any(static_cast<int>(bounds[block - 1]), static_cast<int>(words.size())));
    bounds[blocks] = words.size();
    ans::decode_grid(copied(words), bounds, grid, search, out, 1);

    const ans::Table& table = problem.tables[0];
    const std::int64_t count = static_cast<std::int64_t>(size);
    std::int16_t* const integers = guarded<std::int16_t>(size);
    for (std::size_t i = 0; i < size; ++i) integers[i] = coded(table);
    std::uint32_t* const room = guarded<std::uint32_t>(ans::room(size));
    std::int64_t length = 0;
    const std::size_t start = 0;
    const std::vector<ans::Table> one{table};
    const ans::Search found(one);
    if (table.size != 0) {
        if (!ans::encode_grouped(integers, {&start, 1}, &count, one, room, ans::room(size), &length, 1)) fail("not coded");
        words.assign(room, room + length);
        if (!ans::decode_grouped(copied(words), {0, words.size()}, &count, found, out, 1) || !std::equal(out, out + size, integers))
            fail("groups do not come back");
        for (int time = 0; time < 3; ++time) {
            const std::vector<std::uint32_t> other = damaged(words);
            ans::decode_grouped(copied(other), {0, other.size()}, &count, found, out, 1);
        }
    }
}

void check_columns() {
    const std::size_t rows = static_cast<std::size_t>(any(1, 600)), columns = static_cast<std::size_t>(any(1, 40));
    std::int16_t* const codes = guarded<std::int16_t>(rows * columns);
    for (std::size_t i = 0; i < rows * columns; ++i)
        codes[i] = static_cast<std::int16_t>(any(-32768, 32767) >> any(0, 15));
    std::int64_t* const counts = guarded<std::int64_t>(columns * octavo::column_width_count);
    octavo::count_widths(codes, {rows, columns}, counts, 1);
    std::vector<std::int32_t> order(columns);
    for (std::size_t column = 0; column < columns; ++column) order[column] = static_cast<std::int32_t>(column);
    std::shuffle(order.begin(), order.end(), draws);
    std::vector<octavo::ColumnGroup> groups;
    std::size_t apart = 0;
    for (std::size_t first = 0; first < columns;) {
        const std::size_t count = static_cast<std::size_t>(any(1, static_cast<int>(columns - first)));
        const int kind = any(0, octavo::column_width_count - 1), width = octavo::column_widths[kind];
        const std::size_t pitch = width == 16 ? 2 * count : (count + 7) / 8 * static_cast<std::size_t>(width);
        groups.push_back({width, count, guarded<std::uint8_t>(rows * pitch), pitch});
        for (std::size_t place = first; place < first + count; ++place)
            for (std::size_t row = 0; row < rows; ++row)
                apart += std::abs(int{codes[row * columns + static_cast<std::size_t>(order[place])]}) >
                         (width == 0 ? 0 : (1 << (width - 1)) - 1);
        first += count;
    }
    const octavo::FarCodes far{guarded<std::int32_t>(apart), guarded<std::int32_t>(apart), guarded<std::int16_t>(apart), apart};
    if (!octavo::pack_columns(codes, {rows, columns}, copied(order), groups, far, 1)) fail("codes apart are miscounted");
}

}  // namespace

int main() {
    for (int time = 0; time < 300; ++time) {
        check_rows(random_problem(time % 3 == 0, true));
        check_groups(random_problem(time % 3 == 0, false));
        if (time % 10 == 0) check_columns();
    }
    std::printf("ok\n");
}
