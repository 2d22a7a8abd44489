// Streams and events of the emulated CUDA. The null stream is a stream like the others: it waits for none of them.
#include <mutex>

#include "emulation/runtime.hpp"

using namespace pyparallel::emulation;

namespace {

Event* find_event(cudaEvent_t handle) {
  Runtime& runtime = Runtime::get();
  const std::lock_guard<Lock> guard(runtime.lock);
  const auto event = runtime.events.find(reinterpret_cast<Event*>(handle));
  return event == runtime.events.end() ? nullptr : event->second.get();
}

cudaError_t create_stream(cudaStream_t* handle, unsigned flags) {
  Unseen unseen;
  *handle = reinterpret_cast<cudaStream_t>(Runtime::get().create_stream((flags & cudaStreamNonBlocking) == 0));
  return cudaSuccess;
}

cudaError_t create_event(cudaEvent_t* handle) {
  Unseen unseen;
  Runtime& runtime = Runtime::get();
  auto event = std::make_unique<Event>();
  *handle = reinterpret_cast<cudaEvent_t>(event.get());
  const std::lock_guard<Lock> guard(runtime.lock);
  runtime.events.emplace(event.get(), std::move(event));
  return cudaSuccess;
}

// While `stream` captures, an event is a place in the graph, and waiting for it makes another stream part of the graph.
cudaError_t wait_in_capture(Stream& stream, const Event& event) {
  const bool belongs = event.captured && event.captured->origin->capture == event.captured;
  if (belongs && (!stream.capture || stream.capture == event.captured)) {
    stream.capture = event.captured;
    return cudaSuccess;
  }
  if (stream.capture) stream.capture->valid = false;
  return belongs ? cudaErrorStreamCaptureMerge : cudaErrorStreamCaptureIsolation;
}

}  // namespace

namespace pyparallel::emulation {

void prefer_stream(cudaStream_t handle) { Runtime::get().preferred = Runtime::get().find(handle); }

}  // namespace pyparallel::emulation

extern "C" {

// ---- streams ----

cudaError_t cudaStreamCreate(cudaStream_t* stream) { return create_stream(stream, cudaStreamDefault); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) { return create_stream(stream, flags); }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  return create_stream(stream, flags);
}

// All streams have the same priority.
cudaError_t cudaDeviceGetStreamPriorityRange(int* lowest, int* highest) {
  *lowest = *highest = 0;
  return cudaSuccess;
}

cudaError_t cudaStreamGetId(cudaStream_t handle, unsigned long long* id) {
  Unseen unseen;
  const Stream* const stream = Runtime::get().find(handle);
  if (stream == nullptr) return note(cudaErrorInvalidResourceHandle);
  *id = stream->id;
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  Unseen unseen;
  Stream* const stream = Runtime::get().find(handle);
  if (handle == nullptr || stream == nullptr) return note(cudaErrorInvalidResourceHandle);
  Runtime::get().destroy_stream(stream);
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  Unseen unseen;
  Stream* const stream = Runtime::get().find(handle);
  if (stream == nullptr) return note(cudaErrorInvalidResourceHandle);
  if (stream->capture) return note(Runtime::get().forbid_in_capture(stream));
  if (const cudaError_t error = Runtime::get().forbid_implicit(stream)) return note(error);
  Runtime::get().synchronize(stream);
  return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
  Unseen unseen;
  Runtime& runtime = Runtime::get();
  Stream* const stream = runtime.find(handle);
  if (stream == nullptr) return note(cudaErrorInvalidResourceHandle);
  if (stream->capture) return note(runtime.forbid_in_capture(stream));
  if (const cudaError_t error = runtime.forbid_implicit(stream)) return note(error);
  runtime.poll();
  const std::lock_guard<Lock> guard(runtime.lock);
  if (!stream->idle()) return cudaErrorNotReady;
  stream->finished.acquire();
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  Unseen unseen;
  if (const cudaError_t error = Runtime::get().forbid_on_capturing_device()) return note(error);
  Runtime::get().synchronize_all();
  return cudaSuccess;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t handle, cudaHostFn_t function, void* argument) {
  Unseen unseen;
  Stream* const stream = Runtime::get().find(handle);
  if (stream == nullptr) return note(cudaErrorInvalidResourceHandle);
  Operation operation;
  operation.run = [=](Stream&) { function(argument); };
  return note(Runtime::get().enqueue(stream, std::move(operation)));
}

// ---- events ----

cudaError_t cudaEventCreate(cudaEvent_t* event) { return create_event(event); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return create_event(event); }

// Operations that wait for the event keep what they need of it.
cudaError_t cudaEventDestroy(cudaEvent_t handle) {
  Unseen unseen;
  Runtime& runtime = Runtime::get();
  const std::lock_guard<Lock> guard(runtime.lock);
  return note(runtime.events.erase(reinterpret_cast<Event*>(handle)) == 1 ? cudaSuccess
                                                                          : cudaErrorInvalidResourceHandle);
}

cudaError_t cudaEventRecord(cudaEvent_t event_handle, cudaStream_t stream_handle) {
  Unseen unseen;
  Event* const event = find_event(event_handle);
  Stream* const stream = Runtime::get().find(stream_handle);
  if (event == nullptr || stream == nullptr) return note(cudaErrorInvalidResourceHandle);
  event->captured = stream->capture;
  if (stream->capture) return cudaSuccess;
  event->last = std::make_shared<Mark>();
  Operation operation;
  operation.mark = event->last;
  return note(Runtime::get().enqueue(stream, std::move(operation)));
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream_handle, cudaEvent_t event_handle, unsigned) {
  Unseen unseen;
  const Event* const event = find_event(event_handle);
  Stream* const stream = Runtime::get().find(stream_handle);
  if (event == nullptr || stream == nullptr) return note(cudaErrorInvalidResourceHandle);
  if (stream->capture || event->captured) return note(wait_in_capture(*stream, *event));
  if (!event->last) return cudaSuccess;  // never recorded
  Operation operation;
  operation.wait = event->last;
  return note(Runtime::get().enqueue(stream, std::move(operation)));
}

cudaError_t cudaEventQuery(cudaEvent_t handle) {
  Unseen unseen;
  Runtime& runtime = Runtime::get();
  const Event* const event = find_event(handle);
  if (event == nullptr) return note(cudaErrorInvalidResourceHandle);
  if (event->captured) return note(cudaErrorCapturedEvent);
  if (const cudaError_t error = runtime.forbid_beside_capture()) return note(error);
  if (!event->last) return cudaSuccess;
  runtime.poll();
  const std::lock_guard<Lock> guard(runtime.lock);
  if (!event->last->reached) return cudaErrorNotReady;
  event->last->order.acquire();
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  Unseen unseen;
  const Event* const event = find_event(handle);
  if (event == nullptr) return note(cudaErrorInvalidResourceHandle);
  if (event->captured) return note(cudaErrorCapturedEvent);
  if (const cudaError_t error = Runtime::get().forbid_beside_capture()) return note(error);
  const std::shared_ptr<Mark> mark = event->last;
  if (!mark) return cudaSuccess;
  Runtime::get().wait_for([&] { return mark->reached; });
  mark->order.acquire();
  return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin_handle, cudaEvent_t end_handle) {
  Unseen unseen;
  const Event* const begin = find_event(begin_handle);
  const Event* const end = find_event(end_handle);
  if (begin == nullptr || end == nullptr || !begin->last || !end->last) return note(cudaErrorInvalidResourceHandle);
  const std::lock_guard<Lock> guard(Runtime::get().lock);
  if (!begin->last->reached || !end->last->reached) return cudaErrorNotReady;
  *milliseconds = static_cast<float>(end->last->milliseconds - begin->last->milliseconds);
  return cudaSuccess;
}

}  // extern "C"
