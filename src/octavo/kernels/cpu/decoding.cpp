#include "decoding.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "decoding_loops.hpp"

namespace octavo {

// Blocks are summed first, so that only one of them is looked at place by place.
std::size_t drawn(const DecodingLoops& loops, const float* values, std::size_t count, float largest, float temperature,
                  double uniform) {
    constexpr std::size_t block = 256;
    float own[block];
    const float factor = 1.0f / std::max(temperature, std::numeric_limits<float>::min());
    const auto shares = [&](std::size_t begin) {
        return loops.shares(values + begin, std::min(block, count - begin), largest, factor, own);
    };
    static thread_local std::vector<double> ends;
    ends.clear();
    double end = 0;
    for (std::size_t begin = 0; begin < count; begin += block) ends.push_back(end += shares(begin));
    // Rounding may place a number that is nearly 1 beyond the last that has a share.
    const double sought = std::min(uniform * end, std::nextafter(end, 0.0));
    const auto number = static_cast<std::size_t>(std::upper_bound(ends.begin(), ends.end(), sought) - ends.begin());
    const std::size_t begin = number * block, last = std::min(count, begin + block);
    end = number == 0 ? 0 : ends[number - 1];
    shares(begin);
    std::size_t place = begin;
    for (std::size_t i = begin; i < last; ++i) {
        if (own[i - begin] != 0) place = i;
        if ((end += own[i - begin]) > sought) break;
    }
    return place;
}

const DecodingLoops& choose_decoding(bool portable) {
#if OCTAVO_X86
    if (!portable && __builtin_cpu_supports("avx512f")) return avx512_decoding();
    if (!portable && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2_decoding();
#endif
    (void)portable;
    return decoding_loops;
}

}  // namespace octavo
