#include "binding_decoding.hpp"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <optional>
#include <stdexcept>
#include <vector>

#include "decoding.hpp"
#include "operation.hpp"
#include "team.hpp"

namespace nb = nanobind;

namespace {

using octavo::Attention;

using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using MatrixOut = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Integers = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using IntegersOut = nb::ndarray<std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Weight = nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Keys = nb::ndarray<nb::ndim<5>, nb::c_contig, nb::device::cpu>;
using Values = nb::ndarray<nb::ndim<4>, nb::c_contig, nb::device::cpu>;

void require(bool condition, const char* problem) {
    if (!condition) throw std::invalid_argument(problem);
}

bool narrow(nb::dlpack::dtype kind) {
    const bool is = kind.code == static_cast<std::uint8_t>(nb::dlpack::dtype_code::Bfloat) && kind.bits == 16;
    require(is || kind == nb::dtype<float>(), "buffers are float32 or bfloat16");
    return is;
}

std::size_t checked_rows(std::int64_t rows, std::size_t most) {
    require(0 <= rows && static_cast<std::size_t>(rows) <= most, "there are not so many rows");
    return static_cast<std::size_t>(rows);
}

class AddNorm final : public octavo::Operation {
  public:
    AddNorm(MatrixOut residual, std::optional<Matrix> delta, Vector weight, double epsilon, MatrixOut out,
            bool portable)
        : residual_(std::move(residual)),
          delta_(std::move(delta)),
          weight_(std::move(weight)),
          out_(std::move(out)),
          epsilon_(static_cast<float>(epsilon)),
          loops_(octavo::choose_decoding(portable)) {
        for (std::size_t axis = 0; axis < 2; ++axis)
            require(residual_.shape(axis) == out_.shape(axis) &&
                        (!delta_ || residual_.shape(axis) == delta_->shape(axis)),
                    "the buffers of a norm differ in size");
        require(weight_.shape(0) == residual_.shape(1) && weight_.shape(0) != 0, "the norm does not fit its buffers");
    }

    void run(std::int64_t rows, std::size_t threads) const override {
        const std::size_t width = weight_.shape(0);
        octavo::in_team_ranges(checked_rows(rows, residual_.shape(0)), 1, 2 * width, threads,
                               [&](std::size_t begin, std::size_t end) {
            const std::size_t at = begin * width;
            loops_.add_norm(end - begin, width, residual_.data() + at, delta_ ? delta_->data() + at : nullptr,
                            weight_.data(), epsilon_, out_.data() + at);
        });
    }

  private:
    MatrixOut residual_;
    std::optional<Matrix> delta_;
    Vector weight_;
    MatrixOut out_;
    float epsilon_;
    const octavo::DecodingLoops& loops_;
};

class Gate final : public octavo::Operation {
  public:
    Gate(Matrix found, MatrixOut out, bool portable)
        : found_(std::move(found)), out_(std::move(out)), loops_(octavo::choose_decoding(portable)) {
        require(found_.shape(0) == out_.shape(0) && found_.shape(1) == 2 * out_.shape(1), "the gate does not fit its buffers");
    }

    void run(std::int64_t rows, std::size_t threads) const override {
        const std::size_t inner = out_.shape(1);
        // An exponential takes as long as some multiplications.
        octavo::in_team_ranges(checked_rows(rows, out_.shape(0)), 1, 8 * inner, threads,
                               [&](std::size_t begin, std::size_t end) {
            loops_.gate(end - begin, inner, found_.data() + 2 * begin * inner, out_.data() + begin * inner, inner);
        });
    }

  private:
    Matrix found_;
    MatrixOut out_;
    const octavo::DecodingLoops& loops_;
};

// The place of the largest of each row's values, the first of several; -1 where that is no finite number.
class Likeliest final : public octavo::Operation {
  public:
    Likeliest(Matrix values, IntegersOut out, bool portable)
        : values_(std::move(values)), out_(std::move(out)), loops_(octavo::choose_decoding(portable)) {
        require(values_.shape(0) == out_.shape(0) && values_.shape(1) != 0, "the places do not fit the values");
    }

    void run(std::int64_t rows, std::size_t threads) const override {
        const std::size_t width = values_.shape(1);
        const std::size_t count = checked_rows(rows, out_.shape(0));
        const std::size_t pieces = octavo::members_for(width, width, threads), share = (width + pieces - 1) / pieces;
        struct Found {
            float largest = 0;
            std::size_t place = 0;
        };
        static thread_local std::vector<Found> kept;
        kept.resize(std::max(kept.size(), count * pieces));
        Found* const all = kept.data();
        octavo::in_team_ranges(count * pieces, 1, share, threads, [&](std::size_t begin, std::size_t end) {
            for (std::size_t i = begin; i < end; ++i) {
                const float* const values = values_.data() + i / pieces * width;
                const std::size_t first = std::min(i % pieces * share, width), size = std::min(share, width - first);
                if (size != 0) loops_.find_largest(values + first, size, &all[i].largest, &all[i].place);
                all[i].place = size == 0 ? width : all[i].place + first;
            }
        });
        for (std::size_t row = 0; row < count; ++row) {
            const Found* const found = all + row * pieces;
            Found best = found[0];
            for (std::size_t i = 1; i < pieces && !std::isnan(best.largest); ++i)
                if (found[i].place < width && !(found[i].largest <= best.largest)) best = found[i];
            out_.data()[row] = std::isfinite(best.largest) ? static_cast<std::int64_t>(best.place) : -1;
        }
    }

  private:
    Matrix values_;
    IntegersOut out_;
    const octavo::DecodingLoops& loops_;
};

// Of some rows of values, whose largest are at `largest`, one place each, drawn by a number.
std::vector<std::int64_t> draw(const Matrix& values, const std::vector<std::int64_t>& rows, const std::vector<std::int64_t>& largest,
                               const std::vector<double>& temperatures, const std::vector<double>& uniforms, std::int64_t threads,
                               bool portable) {
    const std::size_t count = values.shape(1), some = rows.size();
    require(some == largest.size() && some == temperatures.size() && some == uniforms.size(), "the numbers do not fit the rows");
    const auto row_of = [&](std::size_t i) { return values.data() + static_cast<std::size_t>(rows[i]) * count; };
    const auto largest_of = [&](std::size_t i) { return row_of(i)[largest[i]]; };
    for (std::size_t i = 0; i < some; ++i) {
        require(0 <= rows[i] && static_cast<std::size_t>(rows[i]) < values.shape(0), "there is no such row");
        require(0 <= largest[i] && static_cast<std::size_t>(largest[i]) < count, "there is no such place");
        require(std::isfinite(largest_of(i)), "the largest value is no finite number");
    }
    const octavo::DecodingLoops& loops = octavo::choose_decoding(portable);
    std::vector<std::int64_t> found(rows.size());
    const nb::gil_scoped_release released;
    const octavo::OwnTeam team;
    // A share takes as long as some multiplications.
    octavo::in_team_ranges(rows.size(), 1, 8 * count, static_cast<std::size_t>(std::max<std::int64_t>(1, threads)),
                           [&](std::size_t begin, std::size_t end) {
        for (std::size_t i = begin; i < end; ++i) {
            const auto temperature = static_cast<float>(temperatures[i]);
            found[i] = static_cast<std::int64_t>(octavo::drawn(loops, row_of(i), count, largest_of(i), temperature, uniforms[i]));
        }
    });
    return found;
}

class DenseProduct final : public octavo::Operation {
  public:
    DenseProduct(Weight weight, std::optional<Vector> bias, Matrix inputs, MatrixOut out, bool portable)
        : weight_(std::move(weight)),
          bias_(std::move(bias)),
          inputs_(std::move(inputs)),
          out_(std::move(out)),
          loops_(octavo::choose_decoding(portable)) {
        require(weight_.shape(1) == inputs_.shape(1) && weight_.shape(0) == out_.shape(1),
                "the weight does not fit its buffers");
        require(inputs_.shape(0) == out_.shape(0), "the buffers of a product differ in size");
        require(!bias_ || bias_->shape(0) == weight_.shape(0), "the bias does not fit the weight");
        product_ = {weight_.data(), narrow(weight_.dtype()), weight_.shape(0), weight_.shape(1), bias_ ? bias_->data() : nullptr,
                    inputs_.data(), out_.data()};
    }

    void run(std::int64_t rows, std::size_t threads) const override {
        const std::size_t batch = checked_rows(rows, out_.shape(0));
        octavo::in_team_ranges(product_.rows, 4, product_.columns * batch, threads,
                               [&](std::size_t begin, std::size_t end) { loops_.dense(product_, begin, end, batch); });
    }

  private:
    Weight weight_;
    std::optional<Vector> bias_;
    Matrix inputs_;
    MatrixOut out_;
    octavo::Dense product_{};
    const octavo::DecodingLoops& loops_;
};

// Whether no number comes twice.
bool distinct(const std::int64_t* numbers, std::size_t count) {
    static thread_local std::vector<std::int64_t> sorted;
    sorted.assign(numbers, numbers + count);
    std::sort(sorted.begin(), sorted.end());
    return std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end();
}

class Attend final : public octavo::Operation {
  public:
    Attend(Matrix found, Integers slots, Integers positions, Matrix cosine, Matrix sine, Keys keys, Values values,
           std::optional<Vector> query_norm, std::optional<Vector> key_norm, std::int64_t window, double epsilon,
           MatrixOut out, bool portable)
        : found_(std::move(found)),
          slots_(std::move(slots)),
          positions_(std::move(positions)),
          cosine_(std::move(cosine)),
          sine_(std::move(sine)),
          keys_(std::move(keys)),
          values_(std::move(values)),
          query_norm_(std::move(query_norm)),
          key_norm_(std::move(key_norm)),
          out_(std::move(out)),
          loops_(octavo::choose_decoding(portable)) {
        const std::size_t width = keys_.shape(3), shared = keys_.shape(1), tiles = keys_.shape(2);
        require(keys_.shape(4) == octavo::tile && width != 0 && width % 2 == 0 && shared != 0, "the keys are no tiles");
        const std::size_t padded = (width + octavo::tile - 1) / octavo::tile * octavo::tile;
        require(values_.shape(0) == keys_.shape(0) && values_.shape(1) == shared &&
                    values_.shape(2) == tiles * octavo::tile && values_.shape(3) == padded,
                "the values do not fit the keys");
        require(keys_.dtype() == values_.dtype(), "keys and values differ in dtype");
        require(cosine_.shape(1) == width / 2 && sine_.shape(1) == width / 2 && cosine_.shape(0) == sine_.shape(0) &&
                    cosine_.shape(0) <= tiles * octavo::tile,
                "the turns do not fit the keys");
        const std::size_t heads = out_.shape(1) / width;
        require(heads != 0 && out_.shape(1) == heads * width && heads % shared == 0, "the heads do not fit the keys");
        require(found_.shape(1) == (heads + 2 * shared) * width, "queries, keys and values do not fit the heads");
        require(found_.shape(0) == out_.shape(0) && slots_.shape(0) == out_.shape(0) &&
                    positions_.shape(0) == out_.shape(0),
                "the buffers of attention differ in size");
        require(query_norm_.has_value() == key_norm_.has_value(), "queries and keys are normalized, or none");
        require(!query_norm_ || (query_norm_->shape(0) == width && key_norm_->shape(0) == width),
                "the norms do not fit the heads");
        require(window >= 0, "a window cannot be negative");
        layer_ = {heads,
                  shared,
                  width,
                  padded,
                  tiles,
                  static_cast<std::size_t>(window),
                  static_cast<float>(epsilon),
                  query_norm_ ? query_norm_->data() : nullptr,
                  key_norm_ ? key_norm_->data() : nullptr,
                  cosine_.data(),
                  sine_.data(),
                  keys_.data(),
                  values_.data(),
                  narrow(keys_.dtype())};
    }

    void run(std::int64_t rows, std::size_t threads) const override {
        const std::size_t count = checked_rows(rows, out_.shape(0));
        std::size_t most = 0, longest = 0;
        for (std::size_t row = 0; row < count; ++row) {
            const std::int64_t slot = slots_.data()[row], position = positions_.data()[row];
            require(0 <= slot && static_cast<std::size_t>(slot) < keys_.shape(0), "there is no such slot");
            require(0 <= position && static_cast<std::size_t>(position) < cosine_.shape(0), "there is no such position");
            most = std::max(most, layer_.spans(static_cast<std::size_t>(position)));
            longest = std::max(longest, static_cast<std::size_t>(position) + 1);
        }
        const std::int64_t *slots = slots_.data(), *positions = positions_.data();
        const auto slot_of = [&](std::size_t row) { return static_cast<std::size_t>(slots[row]); };
        const auto position_of = [&](std::size_t row) { return static_cast<std::size_t>(positions[row]); };
        const auto found_of = [&](std::size_t row) { return found_.data() + row * layer_.row(); };
        const auto scratch = [this] {
            static thread_local std::vector<float> kept;
            kept.resize(std::max(kept.size(), octavo::scratch_of(layer_)));
            return kept.data();
        };
        const auto append = [&](std::size_t row, std::size_t shared) {
            loops_.append(layer_, found_of(row), shared, slot_of(row), position_of(row), scratch());
        };
        // Where rows see each other's keys, these come first: sixteen rows of one slot at a time, since neighbors' keys share
        // lines of the cache. A channel of a key is a line, which is seldom near.
        const bool apart = distinct(slots, count);
        if (!apart)
            octavo::in_team_ranges(count, octavo::tile, 128 * layer_.shared * layer_.width, threads,
                                   [&](std::size_t begin, std::size_t end) {
                for (std::size_t row = begin; row < end; ++row)
                    for (std::size_t shared = 0; shared < layer_.shared; ++shared) append(row, shared);
            });

        static thread_local std::vector<float> kept_partials;
        static thread_local std::vector<std::size_t> kept_left;
        const std::size_t share = layer_.heads / layer_.shared, pitch = most * layer_.partial();
        kept_partials.resize(std::max(kept_partials.size(), count * layer_.heads * pitch));
        kept_left.resize(std::max(kept_left.size(), count * layer_.shared));
        float* const partials = kept_partials.data();
        // Spans that heads of shared keys wait for; whoever brings the last one merges them.
        std::size_t* const left = kept_left.data();
        for (std::size_t i = 0; i < count * layer_.shared; ++i) left[i] = layer_.spans(position_of(i / layer_.shared));
        const std::size_t weight = 2 * std::min(octavo::span, longest) * share * layer_.width;
        octavo::in_team_ranges(
            count * layer_.shared * most, 1, weight, threads,
            [&](std::size_t begin, std::size_t end) {
                const auto row_of = [&](std::size_t i) { return i / most / layer_.shared; };
                const auto shared_of = [&](std::size_t i) { return i / most % layer_.shared; };
                const auto spans_of = [&](std::size_t i) { return layer_.spans(position_of(row_of(i))); };
                const auto next_of = [&](std::size_t i) {
                    while (i < end && i % most >= spans_of(i)) ++i;
                    return i;
                };
                for (std::size_t i = next_of(begin), next; i < end; i = next) {
                    next = next_of(i + 1);
                    octavo::Stretch ahead;
                    if (next < end) ahead = layer_.keys_of(shared_of(next), slot_of(row_of(next)), position_of(row_of(next)), next % most);
                    const std::size_t number = i % most, shared = shared_of(i), row = row_of(i), spans = spans_of(i);
                    const std::size_t head = row * layer_.heads + shared * share;
                    float* const to = partials + head * pitch + number * layer_.partial();
                    if (apart && number + 1 == spans) append(row, shared);
                    loops_.attend(layer_, found_of(row), shared, slot_of(row), position_of(row), number, ahead, scratch(), to, pitch);
                    if (std::atomic_ref(left[row * layer_.shared + shared]).fetch_sub(1, std::memory_order_acq_rel) != 1) continue;
                    for (std::size_t own = head; own < head + share; ++own)
                        loops_.merge(layer_, partials + own * pitch, spans, out_.data() + own * layer_.width);
                }
            },
            true);
    }

  private:
    Matrix found_;
    Integers slots_, positions_;
    Matrix cosine_, sine_;
    Keys keys_;
    Values values_;
    std::optional<Vector> query_norm_, key_norm_;
    MatrixOut out_;
    const octavo::DecodingLoops& loops_;
    Attention layer_{};
};

// An argument taken as it is: of a silently converted copy nobody would see what is written to it.
auto given(const char* name) { return nb::arg(name).noconvert(); }

}  // namespace

void bind_decoding(nb::module_& module) {
    nb::class_<AddNorm, octavo::Operation>(module, "AddNorm")
        .def(nb::init<MatrixOut, std::optional<Matrix>, Vector, double, MatrixOut, bool>(), given("residual"),
             given("delta").none(), given("weight"), nb::arg("epsilon"), given("out"), nb::arg("portable") = false);
    nb::class_<Gate, octavo::Operation>(module, "Gate")
        .def(nb::init<Matrix, MatrixOut, bool>(), given("found"), given("out"), nb::arg("portable") = false);
    nb::class_<Likeliest, octavo::Operation>(module, "Likeliest")
        .def(nb::init<Matrix, IntegersOut, bool>(), given("values"), given("out"), nb::arg("portable") = false);
    module.def("draw", &draw, given("values"), nb::arg("rows"), nb::arg("largest"), nb::arg("temperatures"), nb::arg("uniforms"),
               nb::arg("threads"), nb::arg("portable") = false);
    nb::class_<DenseProduct, octavo::Operation>(module, "DenseProduct")
        .def(nb::init<Weight, std::optional<Vector>, Matrix, MatrixOut, bool>(), given("weight"), given("bias").none(),
             given("inputs"), given("out"), nb::arg("portable") = false);
    nb::class_<Attend, octavo::Operation>(module, "Attend")
        .def(nb::init<Matrix, Integers, Integers, Matrix, Matrix, Keys, Values, std::optional<Vector>,
                      std::optional<Vector>, std::int64_t, double, MatrixOut, bool>(),
             given("found"), given("slots"), given("positions"), given("cosine"), given("sine"), given("keys"),
             given("values"), given("query_norm").none(), given("key_norm").none(), nb::arg("window"),
             nb::arg("epsilon"), given("out"), nb::arg("portable") = false);
}
