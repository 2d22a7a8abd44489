// Every CUDA runtime call that can fail passes through check_cuda. For host and kernel sources alike.
#pragma once
#include <cuda_runtime_api.h>

#include <string>

#include "core/error.hpp"

namespace pyparallel {

// Throws CudaError naming `operation` unless `code` is success. The runtime's own note of the error is cleared, so that
// the next call does not report it a second time.
inline void check_cuda(cudaError_t code, const char* operation) {
  if (code == cudaSuccess) return;
  cudaGetLastError();
  throw CudaError(static_cast<int>(code),
                  std::string(operation) + ": " + cudaGetErrorString(code) + " (" + cudaGetErrorName(code) + ")");
}

}  // namespace pyparallel
