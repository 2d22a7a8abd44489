// Entry points by name and by the version of the interface that is meant.
#include "core/driver.hpp"

#include <cuda_runtime_api.h>

#include "core/cuda_check.hpp"

namespace pyparallel {
namespace {

// `version`: the release that brought the function in the form that it is called in, as CUDA_VERSION counts.
template <class Function>
void find(const char* name, int version, Function& function) {
  void* address = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
  check_cuda(
      cudaGetDriverEntryPointByVersion(name, &address, static_cast<unsigned>(version), cudaEnableDefault, &found),
      name);
#else
  (void)version;
  check_cuda(cudaGetDriverEntryPoint(name, &address, cudaEnableDefault, &found), name);
#endif
  if (found != cudaDriverEntryPointSuccess || address == nullptr)
    throw CudaError(cudaErrorSymbolNotFound, std::string("the CUDA driver has no ") + name + ": it is too old");
  function = reinterpret_cast<Function>(address);
}

Driver found() {
  Driver result{};
  find("cuGetErrorName", 6000, result.get_error_name);
  find("cuMemGetAllocationGranularity", 10020, result.mem_get_allocation_granularity);
  find("cuMemAddressReserve", 10020, result.mem_address_reserve);
  find("cuMemAddressFree", 10020, result.mem_address_free);
  find("cuMemCreate", 10020, result.mem_create);
  find("cuMemRelease", 10020, result.mem_release);
  find("cuMemMap", 10020, result.mem_map);
  find("cuMemUnmap", 10020, result.mem_unmap);
  find("cuMemSetAccess", 10020, result.mem_set_access);
  return result;
}

}  // namespace

const Driver& driver() {
  static const Driver functions = found();
  return functions;
}

void check_driver(CUresult code, const char* operation) {
  if (code == CUDA_SUCCESS) return;
  const char* name = nullptr;
  driver().get_error_name(code, &name);
  throw CudaError(static_cast<int>(code), std::string(operation) + ": " + (name != nullptr ? name : "unknown error"));
}

}  // namespace pyparallel
