// A shared array is written again while slow warps still read it.
#include "planted.hpp"

namespace pyparallel {
namespace {

template <bool kFaulty>
__global__ void rounds(int* sums) {
  GPU_SHARED(int, parts, 32);
  const unsigned warps = blockDim.x / 32;
  for (int round = 0; round < 2; ++round) {
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = round + 1;
    __syncthreads();
    int sum = 0;
    for (unsigned warp = 0; warp < warps; ++warp) sum += parts[warp];
    sums[static_cast<unsigned>(round) * blockDim.x + threadIdx.x] = sum;
    if (!kFaulty) __syncthreads();
  }
}

// Few orders show it in the values: ten seeds are drawn where ThreadSanitizer does not look.
template <bool kFaulty>
void run() {
  for (std::uint64_t seed = 0; seed < (emulation::kTsan ? 1 : 10); ++seed) {
    run_in_order(emulation::kTsan ? emulation::ThreadOrder::kUniform : emulation::ThreadOrder::kByWarp, seed);
    const DeviceArray<int> sums(2 * 64);
    launch({"rounds", 1, 64, nullptr}, rounds<kFaulty>, sums.data());
    synchronize();
    const std::vector<int> result = sums.download();
    for (std::size_t i = 0; i < result.size(); ++i) CHECK_EQUAL(result[i], i < 64 ? 2 : 4);
  }
}

const Planted planted("missing_second_barrier", run<true>, run<false>);

}  // namespace
}  // namespace pyparallel
