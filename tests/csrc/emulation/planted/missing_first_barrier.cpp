// A block sum reads the other warps' parts without waiting for them.
#include "planted.hpp"

namespace pyparallel {
namespace {

template <bool kFaulty>
__global__ void sum(const int* values, int* total) {
  GPU_SHARED(int, parts, 32);
  int value = values[threadIdx.x];
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_down_sync(0xffffffffu, value, distance);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
  if (!kFaulty) __syncthreads();
  if (threadIdx.x > 0) return;
  *total = 0;
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) *total += parts[warp];
}

// In reverse order the values are right: only ThreadSanitizer can tell.
template <bool kFaulty>
void run() {
  run_in_order(emulation::kTsan ? emulation::ThreadOrder::kReverse : emulation::ThreadOrder::kForward);
  const DeviceArray<int> values(std::vector<int>(64, 1)), total(1);
  launch({"sum", 1, 64, nullptr}, sum<kFaulty>, values.data(), total.data());
  synchronize();
  CHECK_EQUAL(total.download()[0], 64);
}

const Planted planted("missing_first_barrier", run<true>, run<false>);

}  // namespace
}  // namespace pyparallel
