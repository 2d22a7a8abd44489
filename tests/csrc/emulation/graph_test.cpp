// Stream capture and graphs under emulation: what is captured does not run, runs at every launch, and what may not be
// captured ends the capture.
#include <cuda.h>

#include <functional>
#include <thread>

#include "device.hpp"

using namespace pyparallel;

namespace {

__global__ void add(int* total, int value) { *total += value; }

void add_on(cudaStream_t stream, int* total, int value) { launch({"add", 1, 1, stream}, add, total, value); }

void begin(cudaStream_t stream, cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal) {
  check_cuda(cudaStreamBeginCapture(stream, mode), "cudaStreamBeginCapture");
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
void ends_the_capture(const Call& call, cudaError_t expected, unsigned flags = cudaStreamNonBlocking) {
  const TestStream stream(flags);
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
  const auto use_null_stream = [&](cudaStream_t) { return cudaMemsetAsync(array.data(), 0, 4, nullptr); };
  ends_the_capture(use_null_stream, cudaErrorStreamCaptureImplicit, cudaStreamDefault);
  ends_the_capture([](cudaStream_t) { return cudaStreamSynchronize(nullptr); }, cudaErrorStreamCaptureImplicit,
                   cudaStreamDefault);
}

// ---- captures and threads that do not know of each other ----

bool abandon(cudaStream_t stream) {
  cudaGraph_t graph;
  const cudaError_t error = cudaStreamEndCapture(stream, &graph);
  if (error == cudaSuccess) check_cuda(cudaGraphDestroy(graph), "cudaGraphDestroy");
  cudaGetLastError();
  return error == cudaSuccess;
}

void on_thread(bool another, const std::function<void()>& work) {
  if (!another) return work();
  std::thread(work).join();
}

constexpr cudaStreamCaptureMode kModes[] = {cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal,
                                            cudaStreamCaptureModeRelaxed};

// As the documentation of cudaThreadExchangeStreamCaptureMode has it.
bool is_forbidden(bool another_thread, cudaStreamCaptureMode capture, cudaStreamCaptureMode thread) {
  static const bool of_this_thread[3][3] = {{true, true, false}, {true, true, false}, {false, false, false}};
  static const bool of_another[3][3] = {{true, false, false}, {false, false, false}, {false, false, false}};
  return (another_thread ? of_another : of_this_thread)[capture][thread];
}

// `call` returns whether it was done.
void is_unsafe_beside_captures(const std::function<bool()>& call) {
  const TestStream stream;
  for (const bool another : {false, true})
    for (const cudaStreamCaptureMode capture : kModes)
      for (const cudaStreamCaptureMode mode : kModes) {
        begin(stream, capture);
        bool done = false;
        on_thread(another, [&] {
          cudaStreamCaptureMode exchanged = mode;
          cudaThreadExchangeStreamCaptureMode(&exchanged);
          done = call();
          cudaThreadExchangeStreamCaptureMode(&exchanged);
        });
        CHECK_EQUAL(done, !is_forbidden(another, capture, mode));
        CHECK_EQUAL(abandon(stream), done);
      }
}

template <class Function>
Function driver_function(const char* name) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result;
  check_cuda(cudaGetDriverEntryPointByVersion(name, &function, 12000, 0, &result), "cudaGetDriverEntryPointByVersion");
  return reinterpret_cast<Function>(function);
}

void unsafe_calls_follow_the_modes() {
  void *memory = nullptr, *pinned = nullptr;
  is_unsafe_beside_captures([&] {
    if (cudaMalloc(&memory, 4) != cudaSuccess) return false;
    return cudaFree(memory) == cudaSuccess;
  });
  is_unsafe_beside_captures([&] {
    if (cudaHostAlloc(&pinned, 4, cudaHostAllocPortable) != cudaSuccess) return false;
    return cudaFreeHost(pinned) == cudaSuccess;
  });
  // Frees alone, of what was there before.
  const TestStream stream;
  check_cuda(cudaMalloc(&memory, 4), "cudaMalloc");
  check_cuda(cudaHostAlloc(&pinned, 4, cudaHostAllocPortable), "cudaHostAlloc");
  for (const auto& free : {std::function([&] { return cudaFree(memory); }), {[&] { return cudaFreeHost(pinned); }}}) {
    begin(stream);
    CHECK_EQUAL(free(), cudaErrorStreamCaptureUnsupported);
    CHECK_EQUAL(abandon(stream), false);
    CHECK_EQUAL(free(), cudaSuccess);
  }
  cudaEvent_t event;
  check_cuda(cudaEventCreate(&event), "cudaEventCreate");
  check_cuda(cudaEventRecord(event, stream), "cudaEventRecord");
  synchronize();
  is_unsafe_beside_captures([&] { return cudaEventQuery(event) == cudaSuccess; });
  is_unsafe_beside_captures([&] { return cudaEventSynchronize(event) == cudaSuccess; });
  cudaEventDestroy(event);
  const auto reserve = driver_function<decltype(&cuMemAddressReserve)>("cuMemAddressReserve");
  const auto give_back = driver_function<decltype(&cuMemAddressFree)>("cuMemAddressFree");
  CUdeviceptr range = 0;
  is_unsafe_beside_captures([&] {
    if (reserve(&range, 2 << 20, 2 << 20, 0, 0) != CUDA_SUCCESS) return false;
    return give_back(range, 2 << 20) == CUDA_SUCCESS;
  });
}

void waiting_for_a_device_loses_its_captures_in_every_mode() {
  const TestStream stream;
  for (const bool another : {false, true})
    for (const cudaStreamCaptureMode mode : kModes)
      for (const int device : {0, 1}) {
        begin(stream, mode);
        cudaError_t error = cudaSuccess;
        on_thread(another, [&] {
          cudaStreamCaptureMode relaxed = cudaStreamCaptureModeRelaxed;
          cudaThreadExchangeStreamCaptureMode(&relaxed);
          check_cuda(cudaSetDevice(device), "cudaSetDevice");
          error = cudaDeviceSynchronize();
          check_cuda(cudaSetDevice(0), "cudaSetDevice");
          cudaThreadExchangeStreamCaptureMode(&relaxed);
        });
        CHECK_EQUAL(error, device == 0 ? cudaErrorStreamCaptureUnsupported : cudaSuccess);
        CHECK_EQUAL(abandon(stream), device == 1);
      }
}

// It tells of captures in streams that it would wait for, and of no others, and asking loses nothing.
void the_null_stream_can_be_asked() {
  for (const unsigned flags : {cudaStreamDefault, cudaStreamNonBlocking}) {
    const TestStream stream(flags);
    begin(stream);
    cudaStreamCaptureStatus status;
    const bool blocking = flags == cudaStreamDefault;
    CHECK_EQUAL(cudaStreamIsCapturing(nullptr, &status), blocking ? cudaErrorStreamCaptureImplicit : cudaSuccess);
    CHECK_EQUAL(abandon(stream), true);
  }
}

void a_capture_ends_on_its_own_thread() {
  const TestStream stream;
  for (const cudaStreamCaptureMode mode : kModes) {
    begin(stream, mode);
    const bool relaxed = mode == cudaStreamCaptureModeRelaxed;
    std::thread([&] { CHECK_EQUAL(abandon(stream), relaxed); }).join();
    if (!relaxed) CHECK_EQUAL(abandon(stream), true);
  }
}

}  // namespace

int main() {
  a_graph_repeats_what_was_captured();
  streams_join_through_events();
  waiting_and_allocating_end_a_capture();
  unsafe_calls_follow_the_modes();
  waiting_for_a_device_loses_its_captures_in_every_mode();
  the_null_stream_can_be_asked();
  a_capture_ends_on_its_own_thread();
}
