// Memory under emulation: sizes, errors, what is fresh, and what a copy promises to the host.
#include <numeric>

#include "device.hpp"

using namespace pyparallel;

namespace {

void fresh_memory_holds_ones() {
  const DeviceArray<unsigned char> array(1000);
  for (unsigned char byte : array.download()) CHECK_EQUAL(byte, 0xff);
}

void copies_arrive() {
  std::vector<int> values(1001);
  std::iota(values.begin(), values.end(), -500);
  const DeviceArray<int> source(values), target(1001);
  const TestStream stream;
  synchronize();
  check_cuda(cudaMemcpyAsync(target.data(), source.data(), 4004, cudaMemcpyDeviceToDevice, stream), "copy");
  check_cuda(cudaMemsetAsync(target.data() + 1000, 0, 4, stream), "set");
  check_cuda(cudaStreamSynchronize(stream), "synchronize");
  values[1000] = 0;
  CHECK_EQUAL(target.download() == values, true);
}

// A pageable source may be changed as soon as the call has returned; a pageable target is complete then.
void pageable_copies_need_no_wait() {
  const TestStream stream;
  const DeviceArray<int> array(1);
  int value = 5, result = 0;
  check_cuda(cudaMemcpyAsync(array.data(), &value, 4, cudaMemcpyHostToDevice, stream), "copy");
  value = 6;
  check_cuda(cudaMemcpyAsync(&result, array.data(), 4, cudaMemcpyDeviceToHost, stream), "copy");
  CHECK_EQUAL(result, 5);
}

// A pinned source is read when the stream comes to it.
void pinned_copies_happen_later() {
  const TestStream stream;
  const DeviceArray<int> array(1);
  int* pinned = nullptr;
  check_cuda(cudaMallocHost(reinterpret_cast<void**>(&pinned), 4), "cudaMallocHost");
  *pinned = 5;
  check_cuda(cudaMemcpyAsync(array.data(), pinned, 4, cudaMemcpyHostToDevice, stream), "copy");
  if (!emulation::kTsan) *pinned = 6;  // the race that ThreadSanitizer would report
  check_cuda(cudaStreamSynchronize(stream), "synchronize");
  CHECK_EQUAL(array.download()[0], emulation::kTsan ? 5 : 6);
  check_cuda(cudaFreeHost(pinned), "cudaFreeHost");
  CHECK_EQUAL(cudaFreeHost(pinned), cudaErrorInvalidValue);
}

void directions_are_checked() {
  const DeviceArray<int> array(2);
  int host[2] = {};
  CHECK_EQUAL(cudaMemcpy(host, array.data(), 4, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  CHECK_EQUAL(cudaMemcpy(array.data(), host, 4, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
  CHECK_EQUAL(cudaMemcpy(array.data(), host, 4, cudaMemcpyDeviceToDevice), cudaErrorInvalidValue);
  CHECK_EQUAL(cudaMemcpy(array.data(), host, 4, cudaMemcpyDefault), cudaSuccess);
  CHECK_EQUAL(cudaMemcpy(nullptr, nullptr, 0, cudaMemcpyDeviceToDevice), cudaSuccess);
  CHECK_EQUAL(cudaMemcpy(nullptr, array.data(), 4, cudaMemcpyDeviceToDevice), cudaErrorInvalidValue);
  cudaGetLastError();
}

void memory_runs_out() {
  emulation::Config config;
  config.device_bytes = 1000;
  emulation::configure(config);
  std::size_t available = 0, total = 0;
  void *first = nullptr, *second = nullptr;
  check_cuda(cudaMalloc(&first, 600), "cudaMalloc");
  CHECK_EQUAL(cudaMalloc(&second, 401), cudaErrorMemoryAllocation);
  CHECK_EQUAL(second == nullptr, true);
  check_cuda(cudaMemGetInfo(&available, &total), "cudaMemGetInfo");
  CHECK_EQUAL(available, std::size_t{400});
  CHECK_EQUAL(total, std::size_t{1000});
  check_cuda(cudaFree(first), "cudaFree");
  CHECK_EQUAL(cudaFree(first), cudaErrorInvalidValue);
  CHECK_EQUAL(cudaFree(nullptr), cudaSuccess);
  CHECK_EQUAL(cudaMalloc(&first, 0), cudaSuccess);
  CHECK_EQUAL(first == nullptr, true);
  cudaGetLastError();
  emulation::configure({});
}

__global__ void fill(int* values, int value) { values[threadIdx.x] = value; }

void stream_ordered_memory_lives_between_its_calls() {
  const TestStream stream;
  int* memory = nullptr;
  int result[32];
  for (int round = 0; round < 3; ++round) {
    check_cuda(cudaMallocAsync(reinterpret_cast<void**>(&memory), sizeof result, stream), "cudaMallocAsync");
    launch({"fill", 1, 32, stream}, fill, memory, round);
    check_cuda(cudaMemcpyAsync(result, memory, sizeof result, cudaMemcpyDeviceToHost, stream), "copy");
    check_cuda(cudaFreeAsync(memory, stream), "cudaFreeAsync");
    for (int value : result) CHECK_EQUAL(value, round);
  }
  synchronize();
  CHECK_EQUAL(cudaFree(memory), cudaErrorInvalidValue);
  cudaGetLastError();
}

}  // namespace

int main() {
  for (auto streams : {emulation::StreamOrder::kRandom, emulation::StreamOrder::kHostThreads}) {
    emulation::Config config;
    config.streams = streams;
    emulation::configure(config);
    fresh_memory_holds_ones();
    copies_arrive();
    pageable_copies_need_no_wait();
    if (streams == emulation::StreamOrder::kRandom) pinned_copies_happen_later();
    directions_are_checked();
    stream_ordered_memory_lives_between_its_calls();
  }
  memory_runs_out();
}
