// Parts of a product that are decoded to float32 before they are multiplied: wide grid codes, and single weights.
#include <vector>

#include "product.hpp"

namespace octavo {
namespace {

class GridPart final : public RowPart {
public:
    GridPart(Taken taken, const std::int16_t* codes, const float* points, std::size_t half, const float* row_step,
             std::size_t rows)
        : RowPart(taken, rows), codes_(codes), points_(points, points + 2 * half + 1), row_step_(row_step),
          half_(static_cast<std::int32_t>(half)), ones_(taken.count, 1.0f) {
        if (points_.size() < few_points) points_.resize(few_points);
    }

protected:
    void decode(std::size_t row, const Loops& loops, float* values) const override {
        loops.grid_int16(codes_ + row * taken.count, taken.count, {points_.data(), half_}, row_step_[row], ones_.data(),
                         values);
    }

private:
    const std::int16_t* codes_;
    std::vector<float> points_;
    const float* row_step_;
    const std::int32_t half_;
    const std::vector<float> ones_;
};

class ZerosPart final : public Part {
public:
    using Part::Part;

    void add(const Task& task) const override {
        for (std::size_t b = 0; b < task.batch; ++b) {
            float sum = 0;
            for (std::size_t i = 0; i < taken.count; ++i) sum += 0.0f * task.inputs[b * task.pitch + i];
            for (std::size_t row = task.begin; row < task.end; ++row) task.out[b * task.out_pitch + row] += sum;
        }
    }

    bool suits_many(Order) const override { return true; }

    void add_row(std::size_t, float*) const override {}

    std::size_t weights() const override { return taken.count; }
};

class SparsePart final : public Part {
public:
    SparsePart(Taken taken, const std::int64_t* starts, const std::int32_t* columns, const float* values,
               std::size_t rows)
        : Part(taken), starts_(starts), columns_(columns), values_(values), rows_(rows) {}

    void add(const Task& task) const override {
        for (std::size_t row = task.begin; row < task.end; ++row)
            for (std::size_t b = 0; b < task.batch; ++b) {
                const float* const x = task.inputs + b * task.pitch;
                float sum = 0;
                for (std::int64_t i = starts_[row]; i < starts_[row + 1]; ++i) sum += values_[i] * x[columns_[i]];
                task.out[b * task.out_pitch + row] += sum;
            }
    }

    bool suits_many(Order) const override { return true; }

    void add_row(std::size_t row, float* out) const override {
        for (std::int64_t i = starts_[row]; i < starts_[row + 1]; ++i) out[columns_[i]] += values_[i];
    }

    std::size_t weights() const override { return static_cast<std::size_t>(starts_[rows_]); }

private:
    const std::int64_t* starts_;
    const std::int32_t* columns_;
    const float* values_;
    const std::size_t rows_;
};

}  // namespace

std::unique_ptr<Part> grid_part(Taken taken, const std::int16_t* codes, const float* points, std::size_t half,
                                const float* row_step, std::size_t rows) {
    return std::make_unique<GridPart>(taken, codes, points, half, row_step, rows);
}

std::unique_ptr<Part> zeros_part(Taken taken) { return std::make_unique<ZerosPart>(taken); }

std::unique_ptr<Part> sparse_part(Taken taken, const std::int64_t* starts, const std::int32_t* columns,
                                  const float* values, std::size_t rows) {
    return std::make_unique<SparsePart>(taken, starts, columns, values, rows);
}

}  // namespace octavo
