// A 16-byte store to an address that is a multiple of 8 only.
#include "planted.hpp"

namespace pyparallel {
namespace {

template <bool kFaulty>
__global__ void clear(float* values) {
  gpu_store_16(values + (kFaulty ? 2 : 4), uint4{});
}

template <bool kFaulty>
void run() {
  const auto values = device_zeros<float>(8);
  launch({"clear", 1, 1, nullptr}, clear<kFaulty>, values.data());
  synchronize();
}

const Planted planted("misaligned_store", run<true>, run<false>);

}  // namespace
}  // namespace pyparallel
