// cudaHostAlloc, pinned for all devices.
#include "memory/pinned_upstream.hpp"

#include "core/device_guard.hpp"
#include "core/outside_of_captures.hpp"

namespace pyparallel::memory {

char* PinnedUpstream::allocate(std::uint64_t num_bytes) {
  const OutsideOfCaptures outside;
  const DeviceGuard guard(device_);
  void* data = nullptr;
  return gave_memory(cudaHostAlloc(&data, num_bytes, cudaHostAllocPortable), "cudaHostAlloc") ? aligned(data) : nullptr;
}

void PinnedUpstream::release(char* data, std::uint64_t) noexcept {
  if (exiting()) return;
  const OutsideOfCaptures outside;
  if (cudaFreeHost(data) != cudaSuccess) cudaGetLastError();
}

}  // namespace pyparallel::memory
