// Kernel launches: the arguments are copied at the call, the threads run when the stream comes to it.
#pragma once
#include <cuda_runtime_api.h>

#include <functional>
#include <tuple>
#include <utility>

namespace pyparallel::emulation {

// What one thread of a launch calls.
template <class... Params>
class BoundKernel {
 public:
  BoundKernel(void (*kernel)(Params...), const Params&... arguments) : kernel_(kernel), arguments_(arguments...) {}

  void operator()() const { call(std::index_sequence_for<Params...>{}); }

 private:
  // Every thread gets its own copy of up to 32 KB, which is no access of the program's.
  template <std::size_t... kIndex>
  __attribute__((no_sanitize("thread"))) void call(std::index_sequence<kIndex...>) const {
    kernel_(std::get<kIndex>(arguments_)...);
  }

  void (*kernel_)(Params...);
  std::tuple<Params...> arguments_;
};

// cudaLaunchKernelExC with the kernel's arguments already bound to `body`. `kernel` is its address, for attributes.
cudaError_t launch(const cudaLaunchConfig_t& config, const char* operation, const void* kernel,
                   std::function<void()> body);

// `preferred`, or as many threads as the configuration allows.
int block_threads(int preferred);

}  // namespace pyparallel::emulation
