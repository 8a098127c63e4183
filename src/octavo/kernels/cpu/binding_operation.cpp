// A step runs some hundred operations on the same memory. So each is an object: arrays are handed over and checked once,
// when it is made, and a sequence of them runs without a word of Python.
#include "binding_operation.hpp"

#include <nanobind/stl/vector.h>

#include <algorithm>
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

void call(const Operation& operation, std::int64_t rows, std::int64_t threads) {
    const nb::gil_scoped_release released;
    const octavo::OwnTeam team;
    operation.run(rows, static_cast<std::size_t>(std::clamp<std::int64_t>(threads, 1, 256)));
}

}  // namespace

void bind_operation(nb::module_& module) {
    nb::class_<Operation>(module, "Operation").def("__call__", &call, nb::arg("rows"), nb::arg("threads"));
    nb::class_<Sequence, Operation>(module, "Sequence")
        .def(nb::init<std::vector<const Operation*>>(), nb::keep_alive<1, 2>(), nb::arg("operations"));
}
