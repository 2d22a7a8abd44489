// The last vector of a loop runs over the end of the array.
#include "planted.hpp"

namespace pyparallel {
namespace {

template <bool kFaulty>
__global__ void negate(float* values, int count) {
  const int vectors = (kFaulty ? count + 3 : count) / 4;
  for (int i = static_cast<int>(threadIdx.x); i < vectors; i += static_cast<int>(blockDim.x)) {
    float4 vector = *reinterpret_cast<const float4*>(values + 4 * i);
    vector = {-vector.x, -vector.y, -vector.z, -vector.w};
    *reinterpret_cast<float4*>(values + 4 * i) = vector;
  }
  const int rest = 4 * vectors + static_cast<int>(threadIdx.x);
  if (rest < count) values[rest] = -values[rest];
}

template <bool kFaulty>
void run() {
  const auto values = device_zeros<float>(1001);
  launch({"negate", 1, 32, nullptr}, negate<kFaulty>, values.data(), 1001);
  synchronize();
}

const Planted planted("vector_tail", run<true>, run<false>);

}  // namespace
}  // namespace pyparallel
