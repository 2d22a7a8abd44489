// Makes a device the current one of this thread and restores the previous one at the end of the scope.
#pragma once
#include "core/cuda_check.hpp"

namespace pyparallel {

// Synchronises nothing and may be used while a stream is captured. A thread that never chose a device counts as being
// on device 0, so restoring may create device 0's context: callers that care set their device once at start.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check_cuda(cudaGetDevice(&previous_), "cudaGetDevice");
    if (device == previous_) return;
    check_cuda(cudaSetDevice(device), "cudaSetDevice");
    changed_ = true;
  }

  ~DeviceGuard() {
    if (changed_ && cudaSetDevice(previous_) != cudaSuccess) cudaGetLastError();  // a destructor must not throw
  }

  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = 0;
  bool changed_ = false;
};

}  // namespace pyparallel
