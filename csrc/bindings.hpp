// What the binding files share.
#pragma once
#include <cxxabi.h>
#include <pybind11/functional.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <unistd.h>

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

// While the interpreter ends, a thread that asks for the GIL is ended by unwinding, which neither destructors nor our
// catch clauses survive. It stays here instead until the process is gone, as it does in Python 3.14 by itself.
template <typename Ask>
auto or_stay(const Ask& ask) {
  try {
    return ask();
  } catch (abi::__forced_unwind&) {
    for (;;) pause();
  }
}

// Without the GIL, which this thread holds, for a while.
class WithoutGil {
 public:
  WithoutGil() : thread_(PyEval_SaveThread()) {}
  ~WithoutGil() {
    or_stay([&] { PyEval_RestoreThread(thread_); });
  }
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  PyThreadState* thread_;
};

// With the GIL, whether this thread holds it or not, for a while.
class WithGil {
 public:
  WithGil() : before_(or_stay([] { return PyGILState_Ensure(); })) {}
  ~WithGil() { PyGILState_Release(before_); }
  WithGil(const WithGil&) = delete;
  WithGil& operator=(const WithGil&) = delete;

 private:
  PyGILState_STATE before_;
};

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
