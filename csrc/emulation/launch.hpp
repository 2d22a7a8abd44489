// Kernel launches: the arguments are copied at the call, the threads run when the stream comes to it.
#pragma once
#include <cuda_runtime_api.h>

#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>

namespace pyparallel::emulation {

// What one thread of a launch calls. Arguments that the ABI passes by address are those of the launch itself, as
// __grid_constant__ has it: the kernel's type says "a copy for every thread", which is the same at the machine's level.
template <class... Params>
class BoundKernel {
 public:
  BoundKernel(void (*kernel)(Params...), const Params&... arguments)
      : kernel_(reinterpret_cast<Kernel*>(reinterpret_cast<void (*)()>(kernel))), arguments_(arguments...) {}

  void operator()() const { call(std::index_sequence_for<Params...>{}); }

 private:
  template <class T>
  using Passed = std::conditional_t<std::is_trivially_destructible_v<T>, T, const T&>;
  using Kernel = void(Passed<Params>...);

  // The copies of the others are no accesses of the program's.
  template <std::size_t... kIndex>
  __attribute__((no_sanitize("thread"))) void call(std::index_sequence<kIndex...>) const {
    kernel_(std::get<kIndex>(arguments_)...);
  }

  Kernel* kernel_;
  std::tuple<Params...> arguments_;
};

// cudaLaunchKernelExC with the kernel's arguments already bound to `body`. `kernel` is its address, for attributes.
cudaError_t launch(const cudaLaunchConfig_t& config, const char* operation, const void* kernel,
                   std::function<void()> body);

// `preferred`, or as many threads as the configuration allows.
int block_threads(int preferred);

}  // namespace pyparallel::emulation
