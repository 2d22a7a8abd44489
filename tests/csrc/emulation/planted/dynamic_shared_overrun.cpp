// A launch gives one element of dynamic shared memory too few.
#include "planted.hpp"

namespace pyparallel {
namespace {

__global__ void reverse(int* values) {
  GPU_DYNAMIC_SHARED(int, slots);
  slots[threadIdx.x] = values[threadIdx.x];
  __syncthreads();
  values[threadIdx.x] = slots[blockDim.x - 1 - threadIdx.x];
}

template <bool kFaulty>
void run() {
  const auto values = device_zeros<int>(32);
  launch({"reverse", 1, 32, nullptr, (kFaulty ? 31 : 32) * sizeof(int)}, reverse, values.data());
  synchronize();
}

const Planted planted("dynamic_shared_overrun", run<true>, run<false>);

}  // namespace
}  // namespace pyparallel
