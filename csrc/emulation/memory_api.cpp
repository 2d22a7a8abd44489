// Allocation and copies of the emulated CUDA, with the guarantees towards the host that the real calls give.
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <vector>

#include "emulation/report.hpp"
#include "emulation/runtime.hpp"

using namespace pyparallel::emulation;

namespace {

void* allocate(std::size_t bytes) {
  Runtime& runtime = Runtime::get();
  const std::lock_guard<Lock> guard(runtime.lock);
  void* const memory = runtime.memory.allocate(bytes);
  if (memory == nullptr) return nullptr;
  std::memset(memory, kFresh, bytes);
  if (runtime.guards_memory()) poison(memory, bytes);
  return memory;
}

bool fits(const void* target, const void* source, cudaMemcpyKind kind) {
  Runtime& runtime = Runtime::get();
  const std::lock_guard<Lock> guard(runtime.lock);
  const bool to_device = runtime.memory.contains(target), from_device = runtime.memory.contains(source);
  switch (kind) {
    case cudaMemcpyHostToHost:
      return !to_device && !from_device;
    case cudaMemcpyHostToDevice:
      return to_device && !from_device;
    case cudaMemcpyDeviceToHost:
      return !to_device && from_device;
    case cudaMemcpyDeviceToDevice:
      return to_device && from_device;
    case cudaMemcpyDefault:
      return true;
  }
  return false;
}

// Neither of the device nor pinned.
bool is_pageable(const void* address) {
  Runtime& runtime = Runtime::get();
  const std::lock_guard<Lock> guard(runtime.lock);
  auto block = runtime.host_memory.upper_bound(address);
  if (block != runtime.host_memory.begin()) {
    --block;
    if (static_cast<const char*>(address) < static_cast<const char*>(block->first) + block->second) return false;
  }
  return !runtime.memory.contains(address);
}

// A pageable source has been read, and a pageable target has been written, when the call returns.
cudaError_t copy(void* target, const void* source, std::size_t bytes, cudaMemcpyKind kind, Stream* stream) {
  Runtime& runtime = Runtime::get();
  if (stream == nullptr) return cudaErrorInvalidResourceHandle;
  if (bytes == 0) return cudaSuccess;
  if (target == nullptr || source == nullptr || !fits(target, source, kind)) return cudaErrorInvalidValue;
  Operation operation;
  if (is_pageable(source) && !stream->capture) {
    const char* const first = static_cast<const char*>(source);
    auto staged = std::make_shared<std::vector<char>>(first, first + bytes);
    operation.run = [=](Stream&) { std::memcpy(target, staged->data(), bytes); };
  } else {
    operation.run = [=](Stream&) { std::memcpy(target, source, bytes); };
  }
  const cudaError_t error = runtime.enqueue(stream, std::move(operation));
  if (error == cudaSuccess && is_pageable(target) && !stream->capture) runtime.synchronize(stream);
  return error;
}

cudaError_t set(void* target, int value, std::size_t bytes, Stream* stream) {
  if (stream == nullptr) return cudaErrorInvalidResourceHandle;
  if (bytes == 0) return cudaSuccess;
  if (target == nullptr) return cudaErrorInvalidValue;
  Operation operation;
  operation.run = [=](Stream&) { std::memset(target, value, bytes); };
  return Runtime::get().enqueue(stream, std::move(operation));
}

// A write by the stream that frees: whoever uses the memory without waiting for the stream, or is not waited for by it,
// is caught by ThreadSanitizer, or reads NaN. AddressSanitizer catches who comes later.
void free_in_stream(void* memory) {
  Runtime& runtime = Runtime::get();
  std::size_t bytes = 0;
  {
    Unseen unseen;
    const std::lock_guard<Lock> guard(runtime.lock);
    if (!runtime.memory.owns(memory)) fail("cudaFreeAsync of memory that is not allocated");
    bytes = runtime.memory.bytes_of(memory);
    runtime.memory.forget(memory);
    if (!kAsan) runtime.memory.retire(memory);
  }
  std::memset(memory, kFresh, bytes);
  if (kAsan) std::free(memory);
}

cudaError_t allocate_pinned(void** memory, std::size_t bytes) {
  Runtime& runtime = Runtime::get();
  *memory = nullptr;
  if (const cudaError_t error = runtime.forbid_beside_capture()) return error;
  if (bytes == 0) return cudaSuccess;
  if (posix_memalign(memory, 4096, bytes) != 0) return cudaErrorMemoryAllocation;
  const std::lock_guard<Lock> guard(runtime.lock);
  runtime.host_memory[*memory] = bytes;
  return cudaSuccess;
}

}  // namespace

extern "C" {

// ---- device memory ----

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  Unseen unseen;
  *memory = nullptr;
  if (const cudaError_t error = Runtime::get().forbid_beside_capture()) return note(error);
  if (bytes == 0) return cudaSuccess;
  *memory = allocate(bytes);
  return note(*memory != nullptr ? cudaSuccess : cudaErrorMemoryAllocation);
}

// May be used on the stream from here on, elsewhere only after an event: the stream itself fills the memory.
cudaError_t cudaMallocAsync(void** memory, size_t bytes, cudaStream_t handle) {
  Unseen unseen;
  *memory = nullptr;
  Stream* const stream = Runtime::get().find(handle);
  if (stream == nullptr) return note(cudaErrorInvalidResourceHandle);
  if (stream->capture) return note(Runtime::get().forbid_in_capture(stream));
  if (bytes == 0) return cudaSuccess;
  *memory = allocate(bytes);
  if (*memory == nullptr) return note(cudaErrorMemoryAllocation);
  return note(set(*memory, kFresh, bytes, stream));
}

cudaError_t cudaFree(void* memory) {
  Unseen unseen;
  Runtime& runtime = Runtime::get();
  if (memory == nullptr) return cudaSuccess;
  if (const cudaError_t error = runtime.forbid_beside_capture()) return note(error);
  runtime.synchronize_all();
  const std::lock_guard<Lock> guard(runtime.lock);
  if (!runtime.memory.forget(memory)) return note(cudaErrorInvalidValue);
  std::free(memory);
  return cudaSuccess;
}

cudaError_t cudaFreeAsync(void* memory, cudaStream_t handle) {
  Unseen unseen;
  Runtime& runtime = Runtime::get();
  if (memory == nullptr) return cudaSuccess;
  Stream* const stream = runtime.find(handle);
  if (stream == nullptr) return note(cudaErrorInvalidResourceHandle);
  if (stream->capture) return note(runtime.forbid_in_capture(stream));
  Operation operation;
  operation.run = [memory](Stream&) { free_in_stream(memory); };
  return note(runtime.enqueue(stream, std::move(operation)));
}

cudaError_t cudaMemGetInfo(size_t* available, size_t* total) {
  Runtime& runtime = Runtime::get();
  const std::lock_guard<Lock> guard(runtime.lock);
  *total = runtime.config.device_bytes;
  *available = *total - runtime.memory.bytes_in_use();
  return cudaSuccess;
}

// ---- pinned memory ----

cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned) {
  Unseen unseen;
  return note(allocate_pinned(memory, bytes));
}

cudaError_t cudaMallocHost(void** memory, size_t bytes) {
  Unseen unseen;
  return note(allocate_pinned(memory, bytes));
}

cudaError_t cudaFreeHost(void* memory) {
  Unseen unseen;
  Runtime& runtime = Runtime::get();
  if (memory == nullptr) return cudaSuccess;
  if (const cudaError_t error = runtime.forbid_beside_capture()) return note(error);
  runtime.synchronize_all();
  const std::lock_guard<Lock> guard(runtime.lock);
  if (runtime.host_memory.erase(memory) == 0) return note(cudaErrorInvalidValue);
  std::free(memory);
  return cudaSuccess;
}

// ---- copies ----

cudaError_t cudaMemcpyAsync(void* target, const void* source, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  Unseen unseen;
  return note(copy(target, source, bytes, kind, Runtime::get().find(stream)));
}

cudaError_t cudaMemcpy(void* target, const void* source, size_t bytes, cudaMemcpyKind kind) {
  Unseen unseen;
  Runtime& runtime = Runtime::get();
  if (const cudaError_t error = runtime.forbid_beside_capture()) return note(error);
  Stream* const stream = runtime.find(nullptr);
  const cudaError_t error = copy(target, source, bytes, kind, stream);
  if (error == cudaSuccess) runtime.synchronize(stream);
  return note(error);
}

cudaError_t cudaMemsetAsync(void* target, int value, size_t bytes, cudaStream_t stream) {
  Unseen unseen;
  return note(set(target, value, bytes, Runtime::get().find(stream)));
}

// Does not wait, as on a device.
cudaError_t cudaMemset(void* target, int value, size_t bytes) {
  Unseen unseen;
  return note(set(target, value, bytes, Runtime::get().find(nullptr)));
}

}  // extern "C"
