// A step runs some hundred operations on the same memory. So each is an object: arrays are handed over and checked once,
// when it is made, and a sequence of them runs without a word of Python.
#include "binding_operation.hpp"

#include <nanobind/ndarray.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <stdexcept>
#include <utility>
#include <vector>

#include "operation.hpp"
#include "team.hpp"

namespace nb = nanobind;

namespace {

using octavo::Operation;

// One after the other.
class Sequence final : public Operation {
public:
    explicit Sequence(std::vector<const Operation*> operations) : operations_(std::move(operations)) {}

    void run(std::int64_t rows, std::size_t threads) const override {
        for (const Operation* operation : operations_) operation->run(rows, threads);
    }

private:
    std::vector<const Operation*> operations_;
};

// Rows by numbers, one in each of some arrays, which operations read.
class Numbers {
public:
    using Array = nb::ndarray<std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

    Numbers(std::vector<Array> arrays, const Operation& operation) : arrays_(std::move(arrays)), operation_(operation) {}

    void call(const std::vector<std::vector<std::int64_t>>& numbers, std::int64_t threads) const;

private:
    std::vector<Array> arrays_;
    const Operation& operation_;
};

void call(const Operation& operation, std::int64_t rows, std::int64_t threads) {
    const nb::gil_scoped_release released;
    const octavo::OwnTeam team;
    operation.run(rows, static_cast<std::size_t>(std::clamp<std::int64_t>(threads, 1, 256)));
}

void Numbers::call(const std::vector<std::vector<std::int64_t>>& numbers, std::int64_t threads) const {
    if (numbers.size() != arrays_.size()) throw std::invalid_argument("there are not as many numbers as arrays");
    const std::size_t rows = numbers.empty() ? 0 : numbers[0].size();
    for (std::size_t i = 0; i < numbers.size(); ++i) {
        if (numbers[i].size() != rows || rows > arrays_[i].shape(0)) throw std::invalid_argument("there are not so many rows");
        std::copy(numbers[i].begin(), numbers[i].end(), arrays_[i].data());
    }
    ::call(operation_, static_cast<std::int64_t>(rows), threads);
}

}  // namespace

void bind_operation(nb::module_& module) {
    nb::class_<Operation>(module, "Operation").def("__call__", &call, nb::arg("rows"), nb::arg("threads"));
    nb::class_<Sequence, Operation>(module, "Sequence")
        .def(nb::init<std::vector<const Operation*>>(), nb::keep_alive<1, 2>(), nb::arg("operations"));
    nb::class_<Numbers>(module, "Numbers")
        .def(nb::init<std::vector<Numbers::Array>, const Operation&>(), nb::keep_alive<1, 3>(), nb::arg("arrays"), nb::arg("operation"))
        .def("__call__", &Numbers::call, nb::arg("numbers"), nb::arg("threads"));
}
