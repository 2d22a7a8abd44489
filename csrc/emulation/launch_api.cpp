// Kernel launches and kernel attributes of the emulated CUDA.
#include <algorithm>
#include <map>
#include <mutex>

#include "emulation/launch.hpp"
#include "emulation/runtime.hpp"

namespace pyparallel::emulation {
namespace {

std::map<const void*, std::size_t>& shared_limits() {
  static auto& limits = *new std::map<const void*, std::size_t>;
  return limits;
}

std::size_t shared_limit(const void* kernel) {
  const auto limit = shared_limits().find(kernel);
  return limit == shared_limits().end() ? kSharedBytes : limit->second;
}

bool is_valid(dim3 grid, dim3 block) {
  const auto within = [](unsigned value, unsigned limit) { return value >= 1 && value <= limit; };
  return within(grid.x, 0x7fffffffu) && within(grid.y, 65535) && within(grid.z, 65535) && within(block.x, 1024) &&
         within(block.y, 1024) && within(block.z, 64) &&
         std::uint64_t{block.x} * block.y * block.z <= static_cast<std::uint64_t>(kMaxBlockThreads);
}

}  // namespace

cudaError_t launch(const cudaLaunchConfig_t& config, const char* operation, const void* kernel,
                   std::function<void()> body) {
  Unseen unseen;
  Runtime& runtime = Runtime::get();
  if (!is_valid(config.gridDim, config.blockDim)) return note(cudaErrorInvalidConfiguration);
  if (config.dynamicSmemBytes > shared_limit(kernel)) return note(cudaErrorInvalidValue);
  Stream* const stream = runtime.find(config.stream);
  if (stream == nullptr || stream->device != current_device) return note(cudaErrorInvalidResourceHandle);
  Operation run;
  KernelCall call{
      operation,       config.gridDim,
      config.blockDim, config.dynamicSmemBytes,
      std::move(body), static_cast<std::uint64_t>(++runtime.launches) + runtime.config.seed * 0x9e3779b97f4a7c15u};
  run.run = [call = std::move(call)](Stream& self) { self.runner.run(call); };
  return note(runtime.enqueue(stream, std::move(run)));
}

int block_threads(int preferred) { return std::min(preferred, config().max_block_threads); }

}  // namespace pyparallel::emulation

using namespace pyparallel::emulation;

extern "C" cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  Unseen unseen;
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return note(cudaErrorNotSupported);
  if (value < 0 || static_cast<std::size_t>(value) > kSharedOptInBytes) return note(cudaErrorInvalidValue);
  const std::lock_guard<Lock> guard(Runtime::get().lock);
  shared_limits()[kernel] = static_cast<std::size_t>(value);
  return cudaSuccess;
}
