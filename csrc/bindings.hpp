// What the binding files share.
#pragma once
#include <pybind11/functional.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>

#include "core/error.hpp"

namespace pyparallel {

namespace py = pybind11;

void register_core(py::module_& module);
void register_kernels(py::module_& module);
void register_step(py::module_& module);
void register_comm(py::module_& module);
void register_nccl(py::module_& module);
void register_memory(py::module_& module);
void register_plugs(py::module_& module);
void register_recorder(py::module_& module);

template <typename T>
T* pointer(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

#if !PYPARALLEL_CUDA
[[noreturn]] inline void no_cuda() {
  throw InvalidArgument("this build of pyparallel has no CUDA kernels (see pyparallel.features()): build it with nvcc");
}
#endif

}  // namespace pyparallel
