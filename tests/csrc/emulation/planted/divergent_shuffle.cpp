// A mask names all lanes, but half of them never come to the shuffle.
#include "planted.hpp"

namespace pyparallel {
namespace {

template <bool kFaulty>
__global__ void exchange(int* values) {
  const int lane = static_cast<int>(threadIdx.x);
  if (lane < 16) values[lane] = __shfl_xor_sync(kFaulty ? 0xffffffffu : 0x0000ffffu, lane, 1);
  __syncthreads();
}

template <bool kFaulty>
void run() {
  const DeviceArray<int> values(32);
  launch({"exchange", 1, 32, nullptr}, exchange<kFaulty>, values.data());
  synchronize();
}

const Planted planted("divergent_shuffle", run<true>, run<false>);

}  // namespace
}  // namespace pyparallel
