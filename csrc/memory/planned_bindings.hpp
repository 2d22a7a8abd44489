// What bindings.cpp registers for planned placement.
#pragma once
#include "bindings.hpp"

namespace pyparallel::memory {

void register_planned(py::module_& module);

}  // namespace pyparallel::memory
