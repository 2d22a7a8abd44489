// cudaMalloc and cudaFree on one device.
#include "memory/cuda_upstream.hpp"

#include "core/device_guard.hpp"
#include "core/outside_of_captures.hpp"

namespace pyparallel::memory {

char* CudaUpstream::allocate(std::uint64_t num_bytes) {
  const OutsideOfCaptures outside;
  const DeviceGuard guard(device_);
  void* data = nullptr;
  return gave_memory(cudaMalloc(&data, num_bytes), "cudaMalloc") ? aligned(data) : nullptr;
}

void CudaUpstream::release(char* data, std::uint64_t) noexcept {
  if (exiting()) return;
  const OutsideOfCaptures outside;
  if (cudaFree(data) != cudaSuccess) cudaGetLastError();
}

}  // namespace pyparallel::memory
