#include "product.hpp"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>

#include "team.hpp"

namespace octavo {
namespace {

// A second thread is called for no fewer multiplications than this.
constexpr std::size_t least_for_a_thread = std::size_t{1} << 15;

constexpr std::size_t largest_tile = 1024;

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
    std::size_t pitch;
    std::size_t offset;
};

}  // namespace

float Factors::at(std::size_t row, std::size_t index) const {
    const std::size_t place = (shared ? 0 : row * blocks) + index;
    return narrow ? widened(static_cast<const std::uint16_t*>(data)[place]) : static_cast<const float*>(data)[place];
}

Order Part::order(Kind, bool) const { return Order::plain; }

std::size_t Part::pitch(Order) const { return rounded_up(taken.count, 16); }

void Part::arrange(const float* plain, Order order, float* out) const {
    std::copy(plain, plain + pitch(order), out);
}

void multiply(const Parts& parts, const Inputs& inputs, std::size_t rows, float* out, std::size_t threads,
              bool portable) {
    std::vector<Staged> staged;
    std::size_t size = 0, widest = 0, work = 0;
    for (const auto& part : parts) {
        const Order order = part->order(inputs.kind, portable);
        const std::size_t pitch = part->pitch(order);
        staged.push_back({part.get(), order, pitch, size});
        size += pitch * inputs.batch;
        widest = std::max(widest, part->pitch(Order::plain));
        work += part->weights() * inputs.batch;
    }
    // Lines of the cache begin at multiples of 64 bytes.
    static thread_local std::vector<float> memory;
    memory.resize(std::max(memory.size(), size + widest + 16));
    const std::size_t skew = (64 - reinterpret_cast<std::uintptr_t>(memory.data()) % 64) % 64 / sizeof(float);
    float* const buffer = memory.data() + skew;
    float* const plain = buffer + size;
    for (const Staged& each : staged)
        for (std::size_t vector = 0; vector < inputs.batch; ++vector) {
            take(inputs, vector, each.part->taken, plain);
            std::fill(plain + each.part->taken.count, plain + each.part->pitch(Order::plain), 0.0f);
            each.part->arrange(plain, each.order, buffer + each.offset + vector * each.pitch);
        }

    const std::size_t useful = std::clamp<std::size_t>(work / least_for_a_thread, 1, threads);
    const std::size_t wanted = rounded_up(rows / (useful == 1 ? 1 : 4 * useful) + 1, tile_unit);
    const std::size_t height = std::clamp(wanted, tile_unit, largest_tile);
    const std::size_t tiles = (rows + height - 1) / height;
    std::atomic<std::size_t> next = 0;
    in_team(std::min(useful, tiles), [&] {
        for (std::size_t tile = next++; tile < tiles; tile = next++) {
            const std::size_t begin = tile * height, end = std::min(rows, begin + height);
            for (std::size_t vector = 0; vector < inputs.batch; ++vector)
                std::fill(out + vector * rows + begin, out + vector * rows + end, 0.0f);
            for (const Staged& each : staged)
                each.part->add({buffer + each.offset, each.pitch, inputs.batch, begin, end, out, rows, each.order,
                                &choose_loops(portable)});
        }
    });
}

}  // namespace octavo
