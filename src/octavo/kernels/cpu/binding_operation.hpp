// The operations' part of the extension module; it comes before whatever defines one.
#pragma once

#include <nanobind/nanobind.h>

void bind_operation(nanobind::module_& module);
