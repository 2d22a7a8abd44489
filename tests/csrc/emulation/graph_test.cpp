// Stream capture and graphs under emulation: what is captured does not run, runs at every launch, and what may not be
// captured ends the capture.
#include "device.hpp"

using namespace pyparallel;

namespace {

__global__ void add(int* total, int value) { *total += value; }

void add_on(cudaStream_t stream, int* total, int value) { launch({"add", 1, 1, stream}, add, total, value); }

void begin(cudaStream_t stream) {
  check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
}

cudaStreamCaptureStatus status_of(cudaStream_t stream) {
  cudaStreamCaptureStatus status;
  check_cuda(cudaStreamIsCapturing(stream, &status), "cudaStreamIsCapturing");
  return status;
}

// Ends the capture and launches it `times` times.
void replay(cudaStream_t stream, int times) {
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  check_cuda(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  check_cuda(cudaGraphInstantiate(&exec, graph, 0), "cudaGraphInstantiate");
  check_cuda(cudaGraphDestroy(graph), "cudaGraphDestroy");
  for (int i = 0; i < times; ++i) check_cuda(cudaGraphLaunch(exec, stream), "cudaGraphLaunch");
  synchronize();
  check_cuda(cudaGraphExecDestroy(exec), "cudaGraphExecDestroy");
}

void a_graph_repeats_what_was_captured() {
  const TestStream stream;
  const auto total = device_zeros<int>(1);
  begin(stream);
  CHECK_EQUAL(status_of(stream), cudaStreamCaptureStatusActive);
  add_on(stream, total.data(), 1);
  add_on(stream, total.data(), 2);
  CHECK_EQUAL(status_of(nullptr), cudaStreamCaptureStatusNone);
  replay(stream, 0);
  CHECK_EQUAL(status_of(stream), cudaStreamCaptureStatusNone);
  CHECK_EQUAL(total.download()[0], 0);
  begin(stream);
  add_on(stream, total.data(), 1);
  add_on(stream, total.data(), 2);
  replay(stream, 3);
  CHECK_EQUAL(total.download()[0], 9);
}

void streams_join_through_events() {
  const TestStream origin, other;
  const auto total = device_zeros<int>(1);
  cudaEvent_t fork, join;
  check_cuda(cudaEventCreate(&fork), "cudaEventCreate");
  check_cuda(cudaEventCreate(&join), "cudaEventCreate");
  begin(origin);
  add_on(origin, total.data(), 1);
  check_cuda(cudaEventRecord(fork, origin), "cudaEventRecord");
  check_cuda(cudaStreamWaitEvent(other, fork, 0), "cudaStreamWaitEvent");
  CHECK_EQUAL(status_of(other), cudaStreamCaptureStatusActive);
  CHECK_EQUAL(cudaEventQuery(fork), cudaErrorCapturedEvent);
  add_on(other, total.data(), 10);
  check_cuda(cudaEventRecord(join, other), "cudaEventRecord");
  check_cuda(cudaStreamWaitEvent(origin, join, 0), "cudaStreamWaitEvent");
  cudaGraph_t graph;
  CHECK_EQUAL(cudaStreamEndCapture(other, &graph), cudaErrorStreamCaptureUnmatched);
  replay(origin, 2);
  CHECK_EQUAL(total.download()[0], 22);
  CHECK_EQUAL(status_of(other), cudaStreamCaptureStatusNone);
  cudaEventDestroy(fork);
  cudaEventDestroy(join);
  cudaGetLastError();
}

template <class Call>
void ends_the_capture(const Call& call, cudaError_t expected) {
  const TestStream stream;
  begin(stream);
  CHECK_EQUAL(call(stream), expected);
  CHECK_EQUAL(status_of(stream), cudaStreamCaptureStatusInvalidated);
  cudaGraph_t graph;
  CHECK_EQUAL(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
  CHECK_EQUAL(graph == nullptr, true);
  cudaGetLastError();
}

void waiting_and_allocating_end_a_capture() {
  constexpr cudaError_t kUnsupported = cudaErrorStreamCaptureUnsupported;
  void* memory = nullptr;
  ends_the_capture([](cudaStream_t stream) { return cudaStreamSynchronize(stream); }, kUnsupported);
  ends_the_capture([](cudaStream_t stream) { return cudaStreamQuery(stream); }, kUnsupported);
  ends_the_capture([](cudaStream_t) { return cudaDeviceSynchronize(); }, kUnsupported);
  ends_the_capture([&](cudaStream_t) { return cudaMalloc(&memory, 4); }, kUnsupported);
  ends_the_capture([&](cudaStream_t stream) { return cudaMallocAsync(&memory, 4, stream); }, kUnsupported);
  const auto array = device_zeros<int>(1);
  ends_the_capture([&](cudaStream_t) { return cudaMemsetAsync(array.data(), 0, 4, nullptr); },
                   cudaErrorStreamCaptureImplicit);
}

}  // namespace

int main() {
  a_graph_repeats_what_was_captured();
  streams_join_through_events();
  waiting_and_allocating_end_a_capture();
}
