// Products of a matrix of packed weights with a few vectors: y = x W^T, W being decoded in registers as it is read.
//
// A matrix is a sum of parts. Each takes some of the inputs, times a factor each, and adds to every output; together
// they are run in one region of threads, over tiles of rows. Results are defined in octavo/kernels/reference/linear.py
// to a tolerance: sums are float32, in an order that depends on the processor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "codebook.hpp"
#include "decoding.hpp"
#include "lattice_points.hpp"
#include "layout.hpp"
#include "loops.hpp"

namespace octavo {

constexpr std::size_t lanes_in_chunk = 16;

// [batch, cols], float32 or bfloat16.
struct Inputs {
    const void* data;
    Kind kind;
    std::size_t batch;
    std::size_t cols;
};

// `count` inputs: those of these numbers (null: the first ones, in order), times these factors (null: 1).
struct Taken {
    const std::int32_t* columns;
    const float* factors;
    std::size_t count;
};

// Scales as `Scales` has them, in float32 or bfloat16.
struct Factors {
    const void* data;
    bool narrow;
    std::size_t blocks;
    std::size_t block;
    bool shared;

    float at(std::size_t row, std::size_t index) const;
};

// What products are computed in: float32 with the instructions that every processor has, or as one without AVX-512
// computes it, or with all that this one has; or whole numbers of eight bits wherever a part has such a path (bytes.hpp).
enum class Arithmetic { portable, avx2, exact, bytes };

// How inputs lie in memory for a part: float32 in order; the same for loops of one instruction set; or in the order of a
// register's lanes, float32 (for registers of all lanes, or of some), bfloat16 or bytes; or as bytes in order; or as tiles
// of bytes.
enum class Order { plain, direct, lanes, split_lanes, narrow_lanes, byte_lanes, bytes, tiles };

// Vectors of inputs that are arranged together. One vector alone lies by itself.
constexpr std::size_t vectors_in_group = 16;

// Vectors, of so many in all, that have room beside each other.
std::size_t room_for(std::size_t batch);

constexpr bool in_lanes(Order order) {
    return order == Order::lanes || order == Order::narrow_lanes || order == Order::byte_lanes;
}

// Rows of outputs and the inputs for them. A vector of inputs takes `pitch` floats, of outputs `out_pitch`.
struct Task {
    const float* prepared;
    const float* inputs;
    std::size_t pitch;
    std::size_t batch;
    std::size_t begin, end;
    float* out;
    std::size_t out_pitch;
    float* sums;  // [batch, rows, lanes_in_chunk]: parts whose inputs lie in lanes may leave adding these up for later
    Order order;
    const Loops* loops;
    bool begins;  // outputs hold nothing yet; only for parts that begin them
};

// The rank of a trellis's state s is (factor * (s ^ (s >> shift)) + a constant) mod the number of states
// (octavo/kernels/shift_trellis.py).
struct Mixer {
    std::uint32_t shift;
    std::uint32_t factor;
};

class Part {
public:
    explicit Part(Taken taken) : taken(taken) {}
    virtual ~Part() = default;

    // The order for inputs of a kind; only `plain` where the loops must be portable.
    virtual Order order(Kind, Arithmetic) const;

    // Whether many vectors in an order are multiplied as fast as by dense weights.
    virtual bool suits_many(Order) const { return false; }

    // Floats that the inputs of one vector take, a multiple of 16.
    virtual std::size_t pitch(Order order) const;

    // Pieces of its inputs, one column beside the other, that are arranged apart.
    virtual std::size_t pieces(Order) const { return 1; }

    // Some pieces of vectors of inputs in that order, at most `room`, which is that for the batch; `plain` ones lie
    // `pitch(Order::plain)` apart and are zero beyond what is taken. The default arranges one by one.
    virtual void arrange_group(const float* plain, std::size_t vectors, std::size_t room, Order order, std::size_t begin,
                               std::size_t end, float* out) const;

    // Whether inputs in that order lie as they do for another part, so that both can have the same.
    virtual bool arranges_like(const Part& part, Order order) const;

    // Floats that the part wants filled before threads begin, and what fills them.
    virtual std::size_t prepared() const;
    virtual void prepare(Order order, float* out) const;

    // Whether `add` can write outputs that hold nothing yet.
    virtual bool begins(Order) const { return false; }

    // Adds this part to the outputs of some rows; `begin` is a multiple of tile_unit.
    virtual void add(const Task& task) const = 0;

    // Brings closer what `add` reads first of rows from `begin` on.
    virtual void fetch(std::size_t begin, std::size_t end) const;

    // Adds the weights of one row to a vector of all inputs' weights.
    virtual void add_row(std::size_t row, float* out) const = 0;

    // Weights, for the balance of threads.
    virtual std::size_t weights() const = 0;

    const Taken taken;

protected:
    // One vector in that order.
    virtual void arrange(const float* plain, Order order, float* out) const;

    // Adds weights of the inputs taken to a vector of all inputs' weights.
    void scatter(const float* values, float* out) const;
};

// Decoded a row at a time to float32 before it is multiplied.
class RowPart : public Part {
public:
    RowPart(Taken taken, std::size_t rows) : Part(taken), rows_(rows) {}

    void add(const Task& task) const override;
    void add_row(std::size_t row, float* out) const override;
    std::size_t weights() const override { return rows_ * taken.count; }

protected:
    // Writes the values of one row.
    virtual void decode(std::size_t row, const Loops& loops, float* values) const = 0;

    const std::size_t rows_;

private:
    // Values of one row, with zeros up to the pitch; they lie where the next call of this thread puts its own.
    const float* decoded(std::size_t row, const Loops& loops) const;
};

// Rows of a tile are a multiple of this.
constexpr std::size_t tile_unit = 16;

using Parts = std::vector<std::unique_ptr<Part>>;

// [batch, rows], a vector every `pitch` floats, that begin with a bias [rows] or, where that is null, with zero.
struct Outputs {
    float* data;
    std::size_t pitch;
    const float* bias;
};

// A matrix, the sum of its parts, and where its products go.
struct Factor {
    const Parts& parts;
    std::size_t rows;
    Outputs outputs;
};

// Outputs = bias + inputs times the transpose, for all matrices of so many inputs of a kind in one region of threads. Made
// once, it can be run many times.
//
// With `gated` [batch, half the rows], whose halves are multiples of tile_unit, of one matrix or of two alike, outputs only say
// which bias there is: silu of the first half's products times those of the second goes to `gated`. Threads keep what they
// find to themselves, so that it does not go from one processor's cache to another's.
class Multiplication {
public:
    Multiplication(std::vector<Factor> matrices, Kind kind, std::size_t batch, Arithmetic arithmetic, float* gated = nullptr);

    void run(const Inputs& inputs, std::size_t threads) const;

private:
    struct Staged {
        const Part* part;
        Order order;
        std::size_t prepared, inputs, pitch;  // where they lie in the memory of a call
        bool arranged;                        // for a part before
    };

    void arrange(const Inputs& inputs, std::size_t threads, float* memory) const;

    // The outputs of some rows of a matrix.
    void multiply_tile(std::size_t number, std::size_t begin, std::size_t end, const Outputs& outputs, const float* memory,
                       float* sums) const;

    // Of some rows of the first half, and of those of the second that belong to them.
    void multiply_gated(std::size_t begin, std::size_t end, const float* memory, float* sums) const;

    std::vector<Factor> matrices_;
    std::size_t batch_;
    float* gated_;
    const Loops& loops_;
    const DecodingLoops& decoding_;
    std::vector<Staged> staged_;
    std::vector<std::size_t> ends_;  // of `staged_`, a matrix each
    std::size_t size_ = 0, widest_ = 0, taken_ = 0, work_ = 0, rows_ = 0;
    bool lanes_ = false, by_rows_ = false;
};

// The same, made and run.
void multiply(const std::vector<Factor>& matrices, const Inputs& inputs, std::size_t threads, Arithmetic arithmetic,
              float* gated = nullptr);

// out [columns] = the weights of one row.
void read_row(const Parts& parts, std::size_t row, std::size_t columns, float* out);

// out [end - begin, columns] = the weights of some rows, in float32 or, if narrow, bfloat16.
void read_rows(const Parts& parts, std::size_t begin, std::size_t end, std::size_t columns, void* out, bool narrow,
               std::size_t threads);

// Packed codes, `row_codes` a row, of which the first taken.count count; values[code] is finite for code 0.
std::unique_ptr<Part> codes_part(Taken taken, const std::uint8_t* packed, const Layout& layout, std::size_t rows,
                                 std::size_t row_codes, const float* values, Factors scales);

// Grid codes [rows, taken.count], their points (see Points) and the step of each row.
std::unique_ptr<Part> grid_part(Taken taken, const std::int16_t* codes, const float* points, std::size_t half,
                                const float* row_step, std::size_t rows);

// Streams of a bit-shift trellis, one for each input; the table's values are `table`, or those of a curve: linear
// between its `knots` at the places that `table` has. Where the order of values is that of a mixer, they can be bytes.
std::unique_ptr<Part> shift_part(Taken taken, const std::uint8_t* codes, std::size_t stream_bytes,
                                 ShiftTrellis trellis, const float* curve, std::size_t knots, const Mixer* mixer,
                                 std::size_t rows, Factors scales);

// Digits of vectors of consecutive columns, packed as an alphabet of code.size, `row_codes` a row.
std::unique_ptr<Part> voronoi_part(Taken taken, const std::uint8_t* packed, std::size_t rows, std::size_t row_codes,
                                   const Voronoi& code, Factors scales);

// Consecutive columns with a companded lattice of their own (see Companded), and the bits of their codes.
struct LatticeGroup {
    std::size_t columns;
    std::uint32_t bits;
    const float* basis;
    float mu;
};

// Digits of vectors, packed group after group, in each row after row; whole bytes a row.
std::unique_ptr<Part> grouped_part(Taken taken, const std::uint8_t* packed, std::size_t rows, std::vector<LatticeGroup> groups,
                                   std::size_t dimension, Factors scales);

// Weights of zero: an input that is no finite number reaches every output also through them.
std::unique_ptr<Part> zeros_part(Taken taken);

// Single weights: those of row i are starts[i] ... starts[i + 1] - 1, at these columns of the inputs taken.
std::unique_ptr<Part> sparse_part(Taken taken, const std::int64_t* starts, const std::int32_t* columns,
                                  const float* values, std::size_t rows);

}  // namespace octavo
