// The part of the extension module that lies between the products of a decoding step.
#pragma once

#include <nanobind/nanobind.h>

void bind_decoding(nanobind::module_& module);
