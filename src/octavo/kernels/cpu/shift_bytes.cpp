#include "shift_bytes.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

namespace octavo {

ShiftBytes rounded_trellis(const float* values, const Mixer& mixer, std::uint32_t bits) {
    constexpr std::uint32_t states = 1u << byte_window, cell = 16;
    std::vector<float> ordered(states);
    float reach = 0;
    for (std::uint32_t state = 0; state < states; ++state) {
        ordered[mixer.factor * (state ^ (state >> mixer.shift)) % states] = values[state];
        reach = std::max(reach, std::fabs(values[state]));
    }
    ShiftBytes found{{}, {}, 0, reach / 127, mixer, bits};
    const auto rounded = [&](float value) {
        return static_cast<std::uint8_t>((reach > 0 ? std::nearbyint(value / found.unit) : 0.0f) +
                                         static_cast<float>(middle));
    };
    for (std::uint32_t i = 0; i < states / cell; ++i) {
        float sum = 0;
        for (std::uint32_t j = 0; j < cell; ++j) sum += ordered[cell * i + j];
        found.means[i] = rounded(sum / cell);
    }
    // Products are ranks up to a constant, so values rise but for one fall, from the last rank to the first.
    std::uint32_t fall = 0;
    float deepest = 0;
    for (std::uint32_t i = 0; i < states; i += 4 * cell) {
        const float depth = ordered[(i + states - 1) % states] - ordered[i];
        if (depth > deepest) deepest = depth, fall = i;
    }
    found.first_end = static_cast<std::uint8_t>(fall / cell - 1);
    for (std::uint32_t j = 0; j < cell; ++j) {
        found.ends[j] = rounded(ordered[fall + j]);
        found.ends[64 - cell + j] = rounded(ordered[(fall + states - cell + j) % states]);
    }
    return found;
}

}  // namespace octavo
