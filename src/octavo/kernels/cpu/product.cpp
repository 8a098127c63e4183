#include "product.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "lanes.hpp"
#include "team.hpp"
#include "tiles.hpp"

namespace octavo {
namespace {

// Numbers that a thread finds for gates at a time, at most, unless that is less than a unit of rows.
constexpr std::size_t most_found = std::size_t{1} << 16;

// Units of rows that are multiplied at a time.
constexpr std::size_t largest_tile = 8192 / tile_unit;

// No fewer, so that what each time costs does not show.
constexpr std::size_t smallest_tile = 2;

// Rows of sums, a line of the cache each, that a tile of one vector has at most.
constexpr std::size_t most_sums = 256;

float widened(std::uint16_t narrow) { return std::bit_cast<float>(std::uint32_t{narrow} << 16); }

std::size_t rounded_up(std::size_t count, std::size_t unit) { return (count + unit - 1) / unit * unit; }

// What is taken of a vector, and zeros up to `pitch`.
void take(const Inputs& inputs, std::size_t vector, const Taken& taken, std::size_t pitch, float* out) {
    const auto each = [&](const auto& value) {
        for (std::size_t i = 0; i < taken.count; ++i) {
            const float x = value(taken.columns == nullptr ? i : static_cast<std::size_t>(taken.columns[i]));
            out[i] = taken.factors == nullptr ? x : x * taken.factors[i];
        }
        std::fill(out + taken.count, out + pitch, 0.0f);
    };
    if (inputs.kind == Kind::float32) {
        const float* from = static_cast<const float*>(inputs.data) + vector * inputs.cols;
        each([&](std::size_t i) { return from[i]; });
    } else {
        const std::uint16_t* from = static_cast<const std::uint16_t*>(inputs.data) + vector * inputs.cols;
        each([&](std::size_t i) { return widened(from[i]); });
    }
}

// Memory of a thread, kept from call to call, that begins with a line of the cache.
float* memory_of(std::vector<float>& kept, std::size_t count) {
    constexpr std::size_t line = 64;
    if (kept.size() < count + line / sizeof(float)) kept.resize(count + line / sizeof(float));
    return kept.data() + (line - reinterpret_cast<std::uintptr_t>(kept.data()) % line) % line / sizeof(float);
}

}  // namespace

float Factors::at(std::size_t row, std::size_t index) const {
    const std::size_t place = (shared ? 0 : row * blocks) + index;
    return narrow ? widened(static_cast<const std::uint16_t*>(data)[place]) : static_cast<const float*>(data)[place];
}

std::size_t room_for(std::size_t batch) {
#if OCTAVO_X86
    static const std::size_t few = tiles_few();
#else
    constexpr std::size_t few = 1;
#endif
    return batch <= few ? 1 : vectors_in_group;
}

Order Part::order(Kind, Arithmetic) const { return Order::plain; }

std::size_t Part::pitch(Order) const { return rounded_up(taken.count, 16); }

void Part::arrange_group(const float* plain, std::size_t vectors, std::size_t, Order order, std::size_t, std::size_t,
                         float* out) const {
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

Multiplication::Multiplication(std::vector<Factor> matrices, Kind kind, std::size_t batch, Arithmetic arithmetic, float* gated)
    : matrices_(std::move(matrices)),
      batch_(batch),
      gated_(gated),
      loops_(choose_loops(arithmetic == Arithmetic::portable, arithmetic != Arithmetic::avx2)),
      decoding_(choose_decoding(arithmetic == Arithmetic::portable)) {
    const std::size_t groups = (batch + room_for(batch) - 1) / room_for(batch);
    for (const Factor& matrix : matrices_) {
        for (const auto& part : matrix.parts) {
            const Order order = part->order(kind, arithmetic);
            const std::size_t pitch = part->pitch(order), prepared = rounded_up(part->prepared(), 16);
            const auto like = std::find_if(staged_.begin(), staged_.end(), [&](const Staged& each) {
                return each.order == order && part->arranges_like(*each.part, order);
            });
            const bool arranged = like != staged_.end();
            staged_.push_back({part.get(), order, size_, arranged ? like->inputs : size_ + prepared, pitch, arranged});
            size_ += prepared + (arranged ? 0 : pitch * groups * room_for(batch));
            widest_ = std::max(widest_, part->pitch(Order::plain));
            taken_ += arranged ? 0 : part->taken.count;
            work_ += part->weights() * batch;
            lanes_ |= in_lanes(order);
            by_rows_ |= order == Order::tiles || order == Order::split_lanes;
        }
        ends_.push_back(staged_.size());
        rows_ += matrix.rows;
    }
}

void Multiplication::arrange(const Inputs& inputs, std::size_t threads, float* memory) const {
    const std::size_t room = room_for(batch_), groups = (batch_ + room - 1) / room, shares = groups < threads ? threads : 1;
    // Arranging an input takes as long as some multiplications.
    in_team_ranges(groups * shares, 1, 8 * room * taken_ / shares, threads, [&](std::size_t first, std::size_t last) {
        static thread_local std::vector<float> kept;
        float* const plain = memory_of(kept, room * widest_);
        for (std::size_t i = first; i < last; ++i)
            for (const Staged& each : staged_) {
                const std::size_t group = i / shares, share = i % shares, pieces = each.part->pieces(each.order);
                const std::size_t piece = share * pieces / shares, end = (share + 1) * pieces / shares;
                if (each.arranged || piece == end) continue;
                const std::size_t begin = group * room, count = std::min(room, batch_ - begin);
                const std::size_t pitch = each.part->pitch(Order::plain);
                const Taken& taken = each.part->taken;
                float* const to = memory + each.inputs + begin * each.pitch;
                const float* from = plain;
                if (inputs.kind == Kind::float32 && taken.columns == nullptr && taken.factors == nullptr && inputs.cols == pitch)
                    from = static_cast<const float*>(inputs.data) + begin * pitch;
                else
                    for (std::size_t v = 0; v < count; ++v) take(inputs, begin + v, taken, pitch, plain + v * pitch);
                each.part->arrange_group(from, count, room, each.order, piece, end, to);
            }
    });
}

void Multiplication::run(const Inputs& inputs, std::size_t threads) const {
    static thread_local std::vector<float> kept;
    float* const memory = memory_of(kept, size_);
    for (const Staged& each : staged_) each.part->prepare(each.order, memory + each.prepared);
    arrange(inputs, threads, memory);

    const auto units_of = [](const Factor& matrix) { return (matrix.rows + tile_unit - 1) / tile_unit; };
    std::size_t units = 0;
    for (const Factor& matrix : matrices_) units += units_of(matrix);
    if (gated_ != nullptr) units = rows_ / 2 / tile_unit;
    const std::size_t team = std::min(std::clamp<std::size_t>(work_ / least_for_a_thread, 1, threads), units);
    // Sums of lanes stay in the cache, and what gates take in. Streams lie column by column: the longer a stretch of each,
    // the fewer pages are looked up. Codes lie row by row.
    std::size_t most = lanes_ ? std::max<std::size_t>(2, most_sums / batch_ / tile_unit) : largest_tile;
    if (gated_ != nullptr) most = std::clamp<std::size_t>(most_found / batch_ / (2 * tile_unit), 1, most);
    const bool shared = team > 1 && (lanes_ || by_rows_);
    Stretches stretches(units, team, shared ? smallest_tile : (units + team - 1) / team, most);
    in_team(team, [&](std::size_t member) {
        static thread_local std::vector<float> kept_sums;
        const std::size_t height = std::min(most, (units + team - 1) / team) * tile_unit;
        float* const sums = lanes_ ? memory_of(kept_sums, batch_ * height * lanes_in_chunk) : nullptr;
        stretches.work(member, [&](std::size_t begin, std::size_t end) {
            if (gated_ != nullptr) return multiply_gated(begin * tile_unit, end * tile_unit, memory, sums);
            for (std::size_t number = 0, first = 0; number < matrices_.size(); first += units_of(matrices_[number++])) {
                const Factor& matrix = matrices_[number];
                const std::size_t from = std::max(begin, first), to = std::min(end, first + units_of(matrix));
                if (from < to)
                    multiply_tile(number, (from - first) * tile_unit, std::min(matrix.rows, (to - first) * tile_unit),
                                  matrix.outputs, memory, sums);
            }
        });
    });
}

void Multiplication::multiply_gated(std::size_t begin, std::size_t end, const float* memory, float* sums) const {
    static thread_local std::vector<float> kept;
    const std::size_t half = rows_ / 2, count = end - begin;
    float* const found = memory_of(kept, batch_ * 2 * count);
    for (std::size_t number = 0; number < 2; ++number) {
        const bool own = matrices_.size() == 2;
        const std::size_t from = begin + (own ? 0 : number * half), matrix = own ? number : 0;
        const Outputs outputs{found + number * count - from, 2 * count, matrices_[matrix].outputs.bias};
        multiply_tile(matrix, from, from + count, outputs, memory, sums);
    }
    decoding_.gate(batch_, count, found, gated_ + begin, half);
}

void Multiplication::multiply_tile(std::size_t number, std::size_t begin, std::size_t end, const Outputs& outputs,
                                   const float* memory, float* sums) const {
    const std::size_t rows = matrices_[number].rows;
    const std::size_t count = end - begin, first = number == 0 ? 0 : ends_[number - 1], last = ends_[number];
    if (lanes_) std::fill(sums, sums + batch_ * count * lanes_in_chunk, 0.0f);
    const bool begun = first != last && outputs.bias == nullptr && staged_[first].part->begins(staged_[first].order);
    for (std::size_t vector = 0; vector < batch_ && !begun; ++vector) {
        float* const out = outputs.data + vector * outputs.pitch + begin;
        if (outputs.bias == nullptr)
            std::fill(out, out + count, 0.0f);
        else
            std::copy(outputs.bias + begin, outputs.bias + end, out);
    }
    for (std::size_t i = first; i < last; ++i) {
        const Staged& each = staged_[i];
        // What comes next in another stretch of memory; a loop fetches what follows in its own.
        if (i + 1 < last)
            staged_[i + 1].part->fetch(begin, end);
        else if (end < rows && i != first)
            staged_[first].part->fetch(end, rows);
        else if (end == rows && last < staged_.size())
            staged_[last].part->fetch(0, matrices_[number + 1].rows);
        each.part->add({memory + each.prepared, memory + each.inputs, each.pitch, batch_, begin, end, outputs.data, outputs.pitch,
                        sums, each.order, &loops_, begun && i == first});
    }
#if OCTAVO_X86
    if (lanes_)
        for (std::size_t vector = 0; vector < batch_; ++vector)
            lanes_sum(sums + vector * count * lanes_in_chunk, count, outputs.data + vector * outputs.pitch + begin);
#endif
}

void multiply(const std::vector<Factor>& matrices, const Inputs& inputs, std::size_t threads, Arithmetic arithmetic,
              float* gated) {
    Multiplication(matrices, inputs.kind, inputs.batch, arithmetic, gated).run(inputs, threads);
}

}  // namespace octavo
