// A static shared array is one element too short.
#include "planted.hpp"

namespace pyparallel {
namespace {

template <bool kFaulty>
__global__ void reverse(int* values) {
  GPU_SHARED(int, slots, kFaulty ? 31 : 32);
  int* const slot = slots;  // the bounds of the array are out of the compiler's sight
  slot[threadIdx.x] = values[threadIdx.x];
  __syncthreads();
  values[threadIdx.x] = slot[31 - threadIdx.x];
}

template <bool kFaulty>
void run() {
  const auto values = device_zeros<int>(32);
  launch({"reverse", 1, 32, nullptr}, reverse<kFaulty>, values.data());
  synchronize();
}

const Planted planted("static_shared_overrun", run<true>, run<false>);

}  // namespace
}  // namespace pyparallel
