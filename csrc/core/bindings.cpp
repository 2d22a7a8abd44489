// Bindings of core: dtype codes, typed errors, and what this build can do.
#include "bindings.hpp"

#include "core/dtype.hpp"
#include "core/error.hpp"
#include "core/isa.hpp"

#if PYPARALLEL_CUDA
#include <cuda_runtime.h>
#endif

namespace pyparallel {
namespace {

// Raises pyparallel.errors.<type>(message, *details).
template <typename... Details>
void raise(const char* type, const char* message, Details... details) {
  const py::object cls = py::module_::import("pyparallel.errors").attr(type);
  PyErr_SetObject(cls.ptr(), cls(message, details...).ptr());
}

void translate(std::exception_ptr error) {
  try {
    if (error) std::rethrow_exception(error);
  } catch (const PeerLostError& e) {
    raise("PeerLostError", e.what(), e.rank);
  } catch (const PeerFailedError& e) {
    raise("PeerFailedError", e.what(), e.rank, e.operation, e.cause);
  } catch (const OutOfMemoryError& e) {
    raise("OutOfMemoryError", e.what(), e.requested, e.available);
  } catch (const CollectiveMismatchError& e) {
    raise("CollectiveMismatchError", e.what());
  } catch (const CollectiveTimeoutError& e) {
    raise("CollectiveTimeoutError", e.what());
  } catch (const CudaError& e) {
    raise("CudaError", e.what(), e.code);
  } catch (const NcclError& e) {
    raise("NcclError", e.what(), e.code);
  } catch (const InvalidArgument& e) {
    PyErr_SetString(PyExc_ValueError, e.what());
  }
}

py::dict features() {
  py::dict result;
  result["version"] = PYPARALLEL_VERSION;
  result["isa"] = name(active_isa());
#if PYPARALLEL_CUDA
  result["cuda"] = true;
  result["cuda_version"] = std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10);
  result["cuda_archs"] = PYPARALLEL_CUDA_ARCHS;
  int count = 0;
  result["cuda_devices"] = cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
#else
  result["cuda"] = false;
#endif
  return result;
}

}  // namespace

void register_core(py::module_& module) {
  py::register_exception_translator(&translate);
  py::dict dtypes, moved;
  for (int code = 0; code < kDTypeCount; ++code) dtypes[name(static_cast<DType>(code))] = code;
  for (int code = 0; code < kMovedDTypeCount; ++code) moved[name(static_cast<DType>(code))] = code;
  module.attr("DTYPES") = dtypes;
  module.attr("MOVED_DTYPES") = moved;
  module.def("features", &features);
}

}  // namespace pyparallel
