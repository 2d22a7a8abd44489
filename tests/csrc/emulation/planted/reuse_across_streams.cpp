// One stream writes a buffer again that a kernel on another stream still reads.
#include "planted.hpp"

namespace pyparallel {
namespace {

__global__ void fill(int* values, int value) { values[threadIdx.x] = value; }
__global__ void copy(const int* source, int* target) { target[threadIdx.x] = source[threadIdx.x]; }

// ThreadSanitizer sees it also where the reader happens to come first and the values are right.
template <bool kFaulty>
void run() {
  const TestStream writer, reader;
  run_first(emulation::kTsan ? reader : writer);
  const DeviceArray<int> buffer(32), result(32);
  cudaEvent_t written, read;
  check_cuda(cudaEventCreateWithFlags(&written, cudaEventDisableTiming), "cudaEventCreate");
  check_cuda(cudaEventCreateWithFlags(&read, cudaEventDisableTiming), "cudaEventCreate");
  launch({"fill", 1, 32, writer}, fill, buffer.data(), 1);
  check_cuda(cudaEventRecord(written, writer), "cudaEventRecord");
  check_cuda(cudaStreamWaitEvent(reader, written, 0), "cudaStreamWaitEvent");
  launch({"copy", 1, 32, reader}, copy, static_cast<const int*>(buffer.data()), result.data());
  check_cuda(cudaEventRecord(read, reader), "cudaEventRecord");
  if (!kFaulty) check_cuda(cudaStreamWaitEvent(writer, read, 0), "cudaStreamWaitEvent");
  launch({"fill", 1, 32, writer}, fill, buffer.data(), 2);
  synchronize();
  for (int value : result.download()) CHECK_EQUAL(value, 1);
  cudaEventDestroy(written);
  cudaEventDestroy(read);
}

const Planted planted("reuse_across_streams", run<true>, run<false>);

}  // namespace
}  // namespace pyparallel
