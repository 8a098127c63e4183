#include "bytes.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace octavo {

ByteValues rounded_values(const float* values, std::size_t count) {
    const float largest = *std::max_element(values, values + count), least = *std::min_element(values, values + count);
    const float reach = std::max(largest, -least);
    ByteValues best{{}, 0.0f};
    float smallest = std::numeric_limits<float>::infinity();
    for (int steps = middle / 2; steps <= middle; ++steps) {
        const float unit = reach / static_cast<float>(steps);
        if (!(unit > 0) || largest > 127.25f * unit) continue;
        float error = 0;
        for (std::size_t i = 0; i < count; ++i) {
            const float difference = (values[i] - unit * std::nearbyint(values[i] / unit)) / reach;
            error += difference * difference;
        }
        if (error < smallest) smallest = error, best.unit = unit;
    }
    for (std::size_t code = 0; code < max_levels; ++code) {
        const float value = best.unit > 0 ? std::nearbyint(values[code % count] / best.unit) : 0.0f;
        best.bytes[code] = static_cast<std::uint8_t>(std::min(value, 127.0f) + static_cast<float>(middle));
    }
    return best;
}

}  // namespace octavo
