// One stream frees memory that a kernel on another stream still uses.
#include "planted.hpp"

namespace pyparallel {
namespace {

__global__ void fill(int* values, int value) { values[threadIdx.x] = value; }

template <bool kFaulty>
void run() {
  const TestStream owner, user;
  run_first(owner);
  int* values = nullptr;
  cudaEvent_t ready, used;
  check_cuda(cudaEventCreateWithFlags(&ready, cudaEventDisableTiming), "cudaEventCreate");
  check_cuda(cudaEventCreateWithFlags(&used, cudaEventDisableTiming), "cudaEventCreate");
  check_cuda(cudaMallocAsync(reinterpret_cast<void**>(&values), 32 * sizeof(int), owner), "cudaMallocAsync");
  check_cuda(cudaEventRecord(ready, owner), "cudaEventRecord");
  check_cuda(cudaStreamWaitEvent(user, ready, 0), "cudaStreamWaitEvent");
  launch({"fill", 1, 32, user}, fill, values, 1);
  check_cuda(cudaEventRecord(used, user), "cudaEventRecord");
  if (!kFaulty) check_cuda(cudaStreamWaitEvent(owner, used, 0), "cudaStreamWaitEvent");
  check_cuda(cudaFreeAsync(values, owner), "cudaFreeAsync");
  synchronize();
  cudaEventDestroy(ready);
  cudaEventDestroy(used);
}

const Planted planted("free_across_streams", run<true>, run<false>);

}  // namespace
}  // namespace pyparallel
