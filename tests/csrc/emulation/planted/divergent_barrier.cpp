// Two halves of a block wait in two different barriers.
#include "planted.hpp"

namespace pyparallel {
namespace {

template <bool kFaulty>
__global__ void halves(int* values) {
  if (kFaulty && threadIdx.x < 16) {
    __syncthreads();
    values[threadIdx.x] = 1;
  } else {
    __syncthreads();
    values[threadIdx.x] = 2;
  }
}

template <bool kFaulty>
void run() {
  const DeviceArray<int> values(32);
  launch({"halves", 1, 32, nullptr}, halves<kFaulty>, values.data());
  synchronize();
}

const Planted planted("divergent_barrier", run<true>, run<false>);

}  // namespace
}  // namespace pyparallel
