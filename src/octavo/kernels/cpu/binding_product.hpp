// The products' part of the extension module.
#pragma once

#include <nanobind/nanobind.h>

void bind_product(nanobind::module_& module);
