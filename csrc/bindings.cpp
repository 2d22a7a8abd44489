// The Python module _C: one register function per folder, nothing else.
#include "bindings.hpp"

// Nothing of it counts on the GIL to keep threads apart: docs/memory.md says what that was proven with.
PYBIND11_MODULE(_C, module, pybind11::mod_gil_not_used()) {
  module.doc() = "Native core of pyparallel. Takes addresses, counts, dtype codes, device indices and stream handles.";
  pyparallel::register_core(module);
  pyparallel::register_kernels(module);
  pyparallel::register_comm(module);
  pyparallel::register_memory(module);
}
