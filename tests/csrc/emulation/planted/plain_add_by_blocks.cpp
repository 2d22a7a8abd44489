// Blocks add to one counter without an atomic.
#include "planted.hpp"

namespace pyparallel {
namespace {

template <bool kFaulty>
__global__ void count(int* total) {
  if (threadIdx.x > 0) return;
  if (kFaulty)
    *total += 1;
  else
    atomicAdd(total, 1);
}

template <bool kFaulty>
void run() {
  const auto total = device_zeros<int>(1);
  launch({"count", 4, 32, nullptr}, count<kFaulty>, total.data());
  synchronize();
  CHECK_EQUAL(total.download()[0], 4);
}

const Planted planted("plain_add_by_blocks", run<true>, run<false>);

}  // namespace
}  // namespace pyparallel
