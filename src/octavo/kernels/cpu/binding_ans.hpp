// The entropy coder's part of the extension module.
#pragma once

#include <nanobind/nanobind.h>

void bind_ans(nanobind::module_& module);
