// The Python module _C: one register function per folder, nothing else.
#include "bindings.hpp"

PYBIND11_MODULE(_C, module) {
  module.doc() = "Native core of pyparallel. Takes addresses, counts, dtype codes, device indices and stream handles.";
  pyparallel::register_core(module);
  pyparallel::register_kernels(module);
  pyparallel::register_comm(module);
  pyparallel::register_memory(module);
}
