#include "product.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "lanes.hpp"
#include "team.hpp"

namespace octavo {
namespace {

constexpr std::size_t largest_tile = 8192;

// Rows of sums, a line of the cache each, that a tile of one vector has at most.
constexpr std::size_t most_sums = 256;

float widened(std::uint16_t narrow) { return std::bit_cast<float>(std::uint32_t{narrow} << 16); }

std::size_t rounded_up(std::size_t count, std::size_t unit) { return (count + unit - 1) / unit * unit; }

void take(const Inputs& inputs, std::size_t vector, const Taken& taken, float* out) {
    const auto each = [&](const auto& value) {
        for (std::size_t i = 0; i < taken.count; ++i) {
            const float x = value(taken.columns == nullptr ? i : static_cast<std::size_t>(taken.columns[i]));
            out[i] = taken.factors == nullptr ? x : x * taken.factors[i];
        }
    };
    if (inputs.kind == Kind::float32) {
        const float* from = static_cast<const float*>(inputs.data) + vector * inputs.cols;
        each([&](std::size_t i) { return from[i]; });
    } else {
        const std::uint16_t* from = static_cast<const std::uint16_t*>(inputs.data) + vector * inputs.cols;
        each([&](std::size_t i) { return widened(from[i]); });
    }
}

struct Staged {
    const Part* part;
    Order order;
    std::size_t prepared, inputs, pitch;  // where they lie in the memory of a call
    bool arranged;                        // for a part before
};

// Memory of a thread, kept from call to call, that begins with a line of the cache.
float* memory_of(std::vector<float>& kept, std::size_t count) {
    constexpr std::size_t line = 64;
    if (kept.size() < count + line / sizeof(float)) kept.resize(count + line / sizeof(float));
    return kept.data() + (line - reinterpret_cast<std::uintptr_t>(kept.data()) % line) % line / sizeof(float);
}

// Rows of a tile. Codes lie row by row: two tiles a thread, so that one that is held up does less, and sums of lanes
// that stay in the cache. Streams lie column by column: the longer a stretch of each, the fewer pages are looked up.
std::size_t tile_height(std::size_t rows, std::size_t batch, std::size_t threads, bool lanes, bool by_rows) {
    const std::size_t most = lanes ? std::max(2 * tile_unit, most_sums / batch / tile_unit * tile_unit) : largest_tile;
    const std::size_t tiles = threads == 1 ? 1 : lanes || by_rows ? 2 * threads : threads;
    return std::min(most, rounded_up((rows + tiles - 1) / tiles, tile_unit));
}

}  // namespace

float Factors::at(std::size_t row, std::size_t index) const {
    const std::size_t place = (shared ? 0 : row * blocks) + index;
    return narrow ? widened(static_cast<const std::uint16_t*>(data)[place]) : static_cast<const float*>(data)[place];
}

Order Part::order(Kind, Arithmetic) const { return Order::plain; }

std::size_t Part::pitch(Order) const { return rounded_up(taken.count, 16); }

void Part::arrange_group(const float* plain, std::size_t vectors, std::size_t, Order order, float* out) const {
    for (std::size_t v = 0; v < vectors; ++v) arrange(plain + v * pitch(Order::plain), order, out + v * pitch(order));
}

void Part::arrange(const float* plain, Order order, float* out) const {
    std::copy(plain, plain + pitch(order), out);
}

bool Part::arranges_like(const Part&, Order) const { return false; }

std::size_t Part::prepared() const { return 0; }

void Part::fetch(std::size_t, std::size_t) const {}

void Part::prepare(Order, float*) const {}

void Part::scatter(const float* values, float* out) const {
    for (std::size_t i = 0; i < taken.count; ++i) {
        const float value = taken.factors == nullptr ? values[i] : values[i] * taken.factors[i];
        out[taken.columns == nullptr ? i : static_cast<std::size_t>(taken.columns[i])] += value;
    }
}

const float* RowPart::decoded(std::size_t row, const Loops& loops) const {
    static thread_local std::vector<float> values;
    values.assign(pitch(Order::plain), 0.0f);
    decode(row, loops, values.data());
    return values.data();
}

void RowPart::add(const Task& task) const {
    for (std::size_t row = task.begin; row < task.end; ++row)
        task.loops->dot(decoded(row, *task.loops), pitch(Order::plain), task.inputs, task.pitch, task.batch,
                        task.out + row, task.out_pitch);
}

void RowPart::add_row(std::size_t row, float* out) const { scatter(decoded(row, choose_loops(false)), out); }

void read_row(const Parts& parts, std::size_t row, std::size_t columns, float* out) {
    std::fill(out, out + columns, 0.0f);
    for (const auto& part : parts) part->add_row(row, out);
}

void read_rows(const Parts& parts, std::size_t begin, std::size_t end, std::size_t columns, void* out, bool narrow,
               std::size_t threads) {
    const Loops& loops = choose_loops(false);
    // A weight takes as long as some multiplications.
    in_team_ranges(end - begin, 1, 4 * columns, threads, [&](std::size_t first, std::size_t last) {
        static thread_local std::vector<float> wide;
        wide.resize(rounded_up(columns, lane));
        for (std::size_t row = first; row < last; ++row) {
            float* const to = static_cast<float*>(out) + row * columns;
            read_row(parts, begin + row, columns, narrow ? wide.data() : to);
            if (narrow)
                loops.narrow_bfloat16(wide.data(), columns, static_cast<std::uint16_t*>(out) + row * columns);
        }
    });
}

void multiply(const std::vector<Factor>& matrices, const Inputs& inputs, std::size_t threads, Arithmetic arithmetic) {
    const Loops& loops = choose_loops(arithmetic == Arithmetic::portable, arithmetic != Arithmetic::avx2);
    static thread_local std::vector<float> kept;
    const std::size_t batch = inputs.batch, room = room_for(batch), groups = (batch + room - 1) / room;
    std::vector<Staged> staged;
    std::vector<std::size_t> ends;  // of `staged`, a matrix each
    std::size_t size = 0, widest = 0, taken = 0, work = 0, rows = 0;
    bool lanes = false, by_rows = false;
    for (const Factor& matrix : matrices) {
        for (const auto& part : matrix.parts) {
            const Order order = part->order(inputs.kind, arithmetic);
            const std::size_t pitch = part->pitch(order), prepared = rounded_up(part->prepared(), 16);
            const auto like = std::find_if(staged.begin(), staged.end(), [&](const Staged& each) {
                return each.order == order && part->arranges_like(*each.part, order);
            });
            const bool arranged = like != staged.end();
            staged.push_back({part.get(), order, size, arranged ? like->inputs : size + prepared, pitch, arranged});
            size += prepared + (arranged ? 0 : pitch * groups * room);
            widest = std::max(widest, part->pitch(Order::plain));
            taken += arranged ? 0 : part->taken.count;
            work += part->weights() * batch;
            lanes |= in_lanes(order);
            by_rows |= order == Order::tiles || order == Order::split_lanes;
        }
        ends.push_back(staged.size());
        rows += matrix.rows;
    }
    float* const memory = memory_of(kept, size);
    for (const Staged& each : staged) each.part->prepare(each.order, memory + each.prepared);
    // Arranging an input takes as long as some multiplications.
    in_team_ranges(groups, 1, 8 * room * taken, threads, [&](std::size_t first, std::size_t last) {
        static thread_local std::vector<float> kept_plain;
        float* const plain = memory_of(kept_plain, room * widest);
        for (std::size_t group = first; group < last; ++group)
            for (const Staged& each : staged) {
                if (each.arranged) continue;
                const std::size_t begin = group * room, count = std::min(room, batch - begin);
                const std::size_t pitch = each.part->pitch(Order::plain);
                for (std::size_t v = 0; v < count; ++v) {
                    take(inputs, begin + v, each.part->taken, plain + v * pitch);
                    std::fill(plain + v * pitch + each.part->taken.count, plain + (v + 1) * pitch, 0.0f);
                }
                each.part->arrange_group(plain, count, room, each.order, memory + each.inputs + begin * each.pitch);
            }
    });

    const std::size_t useful = std::clamp<std::size_t>(work / least_for_a_thread, 1, threads);
    const std::size_t height = tile_height(rows, batch, useful, lanes, by_rows);
    const auto tiles_of = [&](const Factor& matrix) { return (matrix.rows + height - 1) / height; };
    std::size_t tiles = 0;
    for (const Factor& matrix : matrices) tiles += tiles_of(matrix);
    const std::size_t team = std::min(useful, tiles);
    Stretches stretches(tiles, team);
    in_team(team, [&] {
        static thread_local std::vector<float> kept_sums;
        float* const sums = lanes ? memory_of(kept_sums, batch * height * lanes_in_chunk) : nullptr;
        stretches.work([&](std::size_t tile) {
            std::size_t number = 0, own = tile;
            for (; own >= tiles_of(matrices[number]); ++number) own -= tiles_of(matrices[number]);
            const Outputs& outputs = matrices[number].outputs;
            const std::size_t begin = own * height, count = std::min(height, matrices[number].rows - begin);
            if (lanes) std::fill(sums, sums + batch * count * lanes_in_chunk, 0.0f);
            for (std::size_t vector = 0; vector < batch; ++vector) {
                float* const out = outputs.data + vector * outputs.pitch + begin;
                if (outputs.bias == nullptr)
                    std::fill(out, out + count, 0.0f);
                else
                    std::copy(outputs.bias + begin, outputs.bias + begin + count, out);
            }
            for (std::size_t i = number == 0 ? 0 : ends[number - 1]; i < ends[number]; ++i) {
                const Staged& each = staged[i];
                if (i + 1 < ends[number])
                    staged[i + 1].part->fetch(begin, begin + count);
                else if (begin + count < matrices[number].rows)
                    staged[number == 0 ? 0 : ends[number - 1]].part->fetch(begin + count, matrices[number].rows);
                else if (i + 1 < staged.size())
                    staged[i + 1].part->fetch(0, matrices[number + 1].rows);
                each.part->add({memory + each.prepared, memory + each.inputs, each.pitch, batch, begin, begin + count,
                                outputs.data, outputs.pitch, sums, each.order, &loops});
            }
#if OCTAVO_X86
            if (lanes)
                for (std::size_t vector = 0; vector < batch; ++vector)
                    lanes_sum(sums + vector * count * lanes_in_chunk, count, outputs.data + vector * outputs.pitch + begin);
#endif
        });
    });
}

}  // namespace octavo
