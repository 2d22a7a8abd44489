// The host reads a result before the stream has written it.
#include "planted.hpp"

namespace pyparallel {
namespace {

__global__ void set(int* value) { *value = 1; }

template <bool kFaulty>
void run() {
  const TestStream stream;
  const auto value = device_zeros<int>(1);
  int* result = nullptr;
  check_cuda(cudaMallocHost(reinterpret_cast<void**>(&result), sizeof(int)), "cudaMallocHost");
  *result = 0;
  launch({"set", 1, 1, stream}, set, value.data());
  check_cuda(cudaMemcpyAsync(result, value.data(), sizeof(int), cudaMemcpyDeviceToHost, stream), "cudaMemcpyAsync");
  if (!kFaulty) check_cuda(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  const int seen = *result;
  synchronize();
  check_cuda(cudaFreeHost(result), "cudaFreeHost");
  CHECK_EQUAL(seen, 1);
}

const Planted planted("missing_synchronize", run<true>, run<false>);

}  // namespace
}  // namespace pyparallel
