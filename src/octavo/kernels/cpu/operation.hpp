// What a decoding step is made of.
#pragma once

#include <cstddef>
#include <cstdint>

namespace octavo {

// Work on the first rows of buffers that stay where they are. It keeps its arrays alive.
class Operation {
public:
    virtual ~Operation() = default;

    // Throws std::invalid_argument if there are not so many rows.
    virtual void run(std::int64_t rows, std::size_t threads) const = 0;
};

}  // namespace octavo
