// What bindings.cpp registers for replays.
#pragma once
#include "bindings.hpp"

namespace pyparallel::memory {

void register_replay(py::module_& module);

}  // namespace pyparallel::memory
