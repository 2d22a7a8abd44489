// Streams and events through the runtime. None of these calls becomes part of a capture, and none ends one.
#include "memory/cuda_streams.hpp"

#include <atomic>
#include <cstdlib>
#include <string>

#include "core/cuda_check.hpp"
#include "core/device_guard.hpp"
#include "core/outside_of_captures.hpp"

namespace pyparallel::memory {
namespace {

constexpr StreamId kLegacyStream = ~StreamId{0};  // ids count from 0

cudaStream_t handle_of(Stream stream) { return reinterpret_cast<cudaStream_t>(stream); }
cudaEvent_t event_of(Event event) { return reinterpret_cast<cudaEvent_t>(event); }

bool is_legacy(Stream stream) { return stream == 0 || handle_of(stream) == cudaStreamLegacy; }

std::atomic<bool> exit_has_begun{false};

// Says whether a wait was made; false if a capture is in its way. Throws CudaError for anything else.
bool waited(cudaError_t result, const char* operation) {
  switch (result) {
    case cudaErrorStreamCaptureUnsupported:
    case cudaErrorStreamCaptureInvalidated:
    case cudaErrorStreamCaptureImplicit:
    case cudaErrorCapturedEvent:  // the stream began to capture just before
      cudaGetLastError();
      return false;
    default:
      check_cuda(result, operation);
      return true;
  }
}

}  // namespace

bool CudaStreams::exiting() { return exit_has_begun.load(std::memory_order_relaxed); }

// Registered after the driver has registered its own, this runs before that.
void CudaStreams::watch_exit() {
  [[maybe_unused]] static const int registered = std::atexit([] { exit_has_begun.store(true); });
}

CudaStreams::~CudaStreams() {
  if (exiting()) return;
  for (cudaEvent_t event : idle_events_)
    if (cudaEventDestroy(event) != cudaSuccess) cudaGetLastError();
}

// The handle of a default stream means the one of the current device.
StreamId CudaStreams::identity(Stream stream) {
  if (is_legacy(stream)) return kLegacyStream;
  unsigned long long id = 0;
  if (handle_of(stream) == cudaStreamPerThread) {
    const DeviceGuard guard(device_);
    check_cuda(cudaStreamGetId(cudaStreamPerThread, &id), "cudaStreamGetId");
  } else {
    check_cuda(cudaStreamGetId(handle_of(stream), &id), "cudaStreamGetId");
  }
  return id;
}

// The legacy stream would wait for a blocking stream that captures: that is not possible either.
bool CudaStreams::capturing(Stream stream) {
  const DeviceGuard guard(device_);
  cudaStreamCaptureStatus status;
  const cudaError_t result = cudaStreamIsCapturing(handle_of(stream), &status);
  if (result == cudaErrorStreamCaptureImplicit) {
    cudaGetLastError();
    return true;
  }
  check_cuda(result, "cudaStreamIsCapturing");
  return status != cudaStreamCaptureStatusNone;
}

Event CudaStreams::record(Stream stream) {
  const OutsideOfCaptures outside;
  const DeviceGuard guard(device_);
  if (idle_events_.empty()) {
    idle_events_.push_back(nullptr);
    const cudaError_t created = cudaEventCreateWithFlags(&idle_events_.back(), cudaEventDisableTiming);
    if (created != cudaSuccess) idle_events_.pop_back();
    check_cuda(created, "cudaEventCreateWithFlags");
  }
  const cudaEvent_t event = idle_events_.back();
  check_cuda(cudaEventRecord(event, handle_of(stream)), "cudaEventRecord");
  idle_events_.pop_back();
  return reinterpret_cast<Event>(event);
}

bool CudaStreams::passed(Event event) {
  const OutsideOfCaptures outside;
  const cudaError_t result = cudaEventQuery(event_of(event));
  if (result == cudaErrorNotReady) {
    cudaGetLastError();
    return false;
  }
  check_cuda(result, "cudaEventQuery");
  return true;
}

void CudaStreams::wait(Stream stream, Event event) {
  const DeviceGuard guard(device_);
  check_cuda(cudaStreamWaitEvent(handle_of(stream), event_of(event), 0), "cudaStreamWaitEvent");
}

// Whoever waits for it on a device goes on doing so: what a wait means is settled when it is enqueued.
void CudaStreams::destroy(Event event) noexcept { idle_events_.push_back(event_of(event)); }

bool CudaStreams::await(Event event) {
  if (exiting()) return true;
  const OutsideOfCaptures outside;
  return waited(cudaEventSynchronize(event_of(event)), "cudaEventSynchronize");
}

// In any mode it is refused while a stream of the device captures, and that capture is lost. Of captures in blocking
// streams the legacy stream tells without harm.
bool CudaStreams::synchronize() {
  if (exiting()) return true;
  if (capturing(0)) return false;
  const OutsideOfCaptures outside;
  const DeviceGuard guard(device_);
  return waited(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
}

bool CudaStreams::gave_memory(cudaError_t result, const char* operation) const {
  if (result == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return false;
  }
  check_cuda(result, operation);
  watch_exit();
  return true;
}

char* CudaStreams::aligned(void* data) const {
  if (reinterpret_cast<std::uintptr_t>(data) % kAlignment == 0) return static_cast<char*>(data);
  throw CudaError(cudaErrorMisalignedAddress, std::string(name()) + " memory is not aligned to 512 bytes");
}

}  // namespace pyparallel::memory
