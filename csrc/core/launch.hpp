// The only way to start a kernel: exact argument types, no copy of large arguments, an error that names the operation.
#pragma once
#include <memory>
#include <type_traits>

#include "core/cuda_check.hpp"
#include "core/gpu_port.hpp"

namespace pyparallel {

// What one launch may carry since CUDA 12.1 on compute capability 7.0 and later.
inline constexpr std::size_t kMaxArgumentBytes = 32764;

struct Launch {
  const char* operation;  // named in the error
  std::int64_t blocks;    // 1 to 2^31 - 1
  int threads;            // per block, a multiple of 32
  cudaStream_t stream;
  std::size_t shared_bytes = 0;
};

template <class T>
struct Identity {
  using type = T;
};

// Enqueues `kernel` and returns: nothing is synchronised or allocated, so this is safe under stream capture. The types
// come from the kernel alone; an argument of exactly that type is handed on by address, a 32 KB table is never copied
// here.
template <class... Params>
void launch(const Launch& shape, void (*kernel)(Params...), const typename Identity<Params>::type&... arguments) {
  static_assert((std::size_t{0} + ... + sizeof(Params)) <= kMaxArgumentBytes, "more kernel arguments than CUDA takes");
  const cudaLaunchConfig_t config{dim3(static_cast<unsigned>(shape.blocks)),
                                  dim3(static_cast<unsigned>(shape.threads)),
                                  shape.shared_bytes,
                                  shape.stream,
                                  nullptr,
                                  0};
#if defined(__CUDACC__)
  void* pointers[] = {const_cast<void*>(static_cast<const void*>(std::addressof(arguments)))...};
  check_cuda(cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(kernel), pointers), shape.operation);
#else
  check_cuda(emulation::launch(config, shape.operation, reinterpret_cast<const void*>(kernel),
                               emulation::BoundKernel<Params...>(kernel, arguments...)),
             shape.operation);
#endif
}

// Threads of a block for a kernel that prefers `preferred`. Kernels read blockDim and never assume it.
inline int block_threads(int preferred) {
#if defined(__CUDACC__)
  return preferred;
#else
  return emulation::block_threads(preferred);
#endif
}

// Blocks that keep `device` busy for a few waves: the grid of a kernel whose blocks go on to further work by
// themselves.
inline std::int64_t blocks_for_device(int device) {
  int multiprocessors = 0;
  check_cuda(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device),
             "cudaDeviceGetAttribute");
  return std::int64_t{64} * multiprocessors;
}

}  // namespace pyparallel
