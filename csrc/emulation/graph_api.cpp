// Stream capture and graphs of the emulated CUDA: a graph repeats its operations in the order in which they were
// captured.
//
// That order is one of those a device may choose. What streams that were forked inside a graph forgot to order is
// therefore not found, and a fork that never joins is not refused.
#include <mutex>
#include <thread>
#include <utility>

#include "emulation/runtime.hpp"

using namespace pyparallel::emulation;

namespace {

Graph* graph_of(cudaGraph_t handle) { return reinterpret_cast<Graph*>(handle); }
Graph* graph_of(cudaGraphExec_t handle) { return reinterpret_cast<Graph*>(handle); }

}  // namespace

extern "C" {

// ---- capture ----

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
  Unseen unseen;
  Stream* const stream = Runtime::get().find(handle);
  if (stream == nullptr) return note(cudaErrorInvalidResourceHandle);
  if (stream->legacy) return note(cudaErrorStreamCaptureUnsupported);
  if (stream->capture) return note(cudaErrorIllegalState);
  const std::lock_guard<Lock> guard(Runtime::get().lock);
  stream->capture = std::make_shared<Graph>(Graph{stream, mode, std::this_thread::get_id(), true, {}});
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* result) {
  Unseen unseen;
  Runtime& runtime = Runtime::get();
  *result = nullptr;
  Stream* const stream = runtime.find(handle);
  if (stream == nullptr) return note(cudaErrorInvalidResourceHandle);
  if (!stream->capture) return note(cudaErrorIllegalState);
  if (stream->capture->origin != stream) return note(cudaErrorStreamCaptureUnmatched);
  if (stream->capture->mode != cudaStreamCaptureModeRelaxed && stream->capture->thread != std::this_thread::get_id())
    return note(cudaErrorStreamCaptureWrongThread);
  const std::lock_guard<Lock> guard(runtime.lock);
  const std::shared_ptr<Graph> graph = stream->capture;
  for (const auto& other : runtime.streams)
    if (other->capture == graph) other->capture.reset();
  if (!graph->valid) return note(cudaErrorStreamCaptureInvalidated);
  *result = reinterpret_cast<cudaGraph_t>(new Graph(*graph));
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
  Unseen unseen;
  const Stream* const stream = Runtime::get().find(handle);
  if (stream == nullptr) return note(cudaErrorInvalidResourceHandle);
  {
    const std::lock_guard<Lock> guard(Runtime::get().lock);
    if (Runtime::get().implicit_capture(stream)) return note(cudaErrorStreamCaptureImplicit);  // and loses nothing
  }
  *status = !stream->capture         ? cudaStreamCaptureStatusNone
            : stream->capture->valid ? cudaStreamCaptureStatusActive
                                     : cudaStreamCaptureStatusInvalidated;
  return cudaSuccess;
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(capture_mode, *mode);
  return cudaSuccess;
}

// ---- graphs ----

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  Unseen unseen;
  *exec = reinterpret_cast<cudaGraphExec_t>(new Graph(*graph_of(graph)));
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t handle) {
  Unseen unseen;
  Stream* const stream = Runtime::get().find(handle);
  if (stream == nullptr) return note(cudaErrorInvalidResourceHandle);
  for (const Operation& operation : graph_of(exec)->operations)
    if (const cudaError_t error = Runtime::get().enqueue(stream, operation)) return note(error);
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  Unseen unseen;
  delete graph_of(exec);
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  Unseen unseen;
  delete graph_of(graph);
  return cudaSuccess;
}

}  // extern "C"
