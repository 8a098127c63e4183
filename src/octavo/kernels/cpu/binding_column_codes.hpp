#pragma once

#include <nanobind/nanobind.h>

void bind_column_codes(nanobind::module_& module);
