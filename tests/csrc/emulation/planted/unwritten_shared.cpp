// Shared memory is read before anything was written there.
#include "planted.hpp"

namespace pyparallel {
namespace {

template <bool kFaulty>
__global__ void accumulate(float* total) {
  GPU_SHARED(float, sum, 1);
  if (!kFaulty && threadIdx.x == 0) sum[0] = 0.0f;
  __syncthreads();
  atomicAdd(&sum[0], 1.0f);
  __syncthreads();
  if (threadIdx.x == 0) *total = sum[0];
}

template <bool kFaulty>
void run() {
  const DeviceArray<float> total(1);
  launch({"accumulate", 1, 32, nullptr}, accumulate<kFaulty>, total.data());
  synchronize();
  CHECK_EQUAL(total.download()[0], 32.0f);
}

const Planted planted("unwritten_shared", run<true>, run<false>);

}  // namespace
}  // namespace pyparallel
