// For calls that are no part of what a stream captures, neither of this thread's nor of another's: allocating, say.
#pragma once
#include <cuda_runtime_api.h>

namespace pyparallel {

// In its scope this thread may make calls that a capture elsewhere would forbid. Synchronises nothing.
class OutsideOfCaptures {
 public:
  OutsideOfCaptures() { exchange(); }
  ~OutsideOfCaptures() { exchange(); }
  OutsideOfCaptures(const OutsideOfCaptures&) = delete;
  OutsideOfCaptures& operator=(const OutsideOfCaptures&) = delete;

 private:
  void exchange() {
    if (cudaThreadExchangeStreamCaptureMode(&mode_) != cudaSuccess) cudaGetLastError();
  }
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

}  // namespace pyparallel
