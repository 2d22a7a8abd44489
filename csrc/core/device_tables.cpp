// Device tables: the memory that lists hand on to each other, and the order of uploads and launches.
#include "core/device_tables.hpp"

#include <cuda_runtime_api.h>

#include <bit>
#include <memory>
#include <mutex>
#include <utility>

#include "core/cuda_check.hpp"
#include "core/outside_of_captures.hpp"

namespace pyparallel {

struct TableMemory {
  int device;
  std::size_t bytes;
  void* staging = nullptr;  // pinned
  void* memory = nullptr;   // on the device
  cudaEvent_t last_use = nullptr;
};

namespace {

// Of all lists, for the life of the process: nothing is freed, so nothing can be freed too early, or too late, after
// the driver has gone.
class TablePool {
 public:
  static TablePool& get() {
    static TablePool& pool = *new TablePool;
    return pool;
  }

  // Memory that no launch uses, on the current device.
  TableMemory* take(int device, std::size_t bytes) {
    const OutsideOfCaptures outside;
    const std::size_t rounded = std::bit_ceil(bytes);
    {
      const std::lock_guard<std::mutex> guard(lock_);
      for (TableMemory*& idle : idle_)
        if (idle->device == device && idle->bytes == rounded && has_passed(idle->last_use)) {
          std::swap(idle, idle_.back());
          TableMemory* const memory = idle_.back();
          idle_.pop_back();
          return memory;
        }
    }
    return allocate(device, rounded);
  }

  void give_back(TableMemory* memory) {
    const std::lock_guard<std::mutex> guard(lock_);
    idle_.push_back(memory);
  }

 private:
  static bool has_passed(cudaEvent_t event) {
    const cudaError_t status = cudaEventQuery(event);
    if (status == cudaSuccess) return true;
    cudaGetLastError();
    if (status != cudaErrorNotReady) check_cuda(status, "device table: event");
    return false;
  }

  static TableMemory* allocate(int device, std::size_t bytes) {
    auto memory = std::make_unique<TableMemory>(TableMemory{device, bytes});
    check_cuda(cudaEventCreateWithFlags(&memory->last_use, cudaEventDisableTiming), "device table: event");
    check_cuda(cudaHostAlloc(&memory->staging, bytes, cudaHostAllocDefault), "device table: pinned memory");
    check_cuda(cudaMalloc(&memory->memory, bytes), "device table: memory");
    return memory.release();
  }

  std::mutex lock_;
  std::vector<TableMemory*> idle_;
};

bool is_captured(cudaStream_t stream) {
  cudaStreamCaptureStatus status;
  check_cuda(cudaStreamIsCapturing(stream, &status), "cudaStreamIsCapturing");
  return status != cudaStreamCaptureStatusNone;
}

}  // namespace

DeviceTables::~DeviceTables() {
  for (const Entry& entry : entries_)
    if (entry.in_turns != nullptr) TablePool::get().give_back(entry.in_turns);
}

DeviceTables::Entry& DeviceTables::entry_of(std::int64_t chunk, int device) {
  for (Entry& entry : entries_)
    if (entry.chunk == chunk && entry.device == device) return entry;
  return entries_.emplace_back(Entry{chunk, device, 0, 0, nullptr, nullptr});
}

void DeviceTables::keep_for_good(Entry& entry, std::size_t bytes, const Fill& fill) {
  const OutsideOfCaptures outside;
  std::vector<std::max_align_t> table((bytes + sizeof(std::max_align_t) - 1) / sizeof(std::max_align_t));
  const std::int64_t blocks = fill(table.data());
  void* memory = nullptr;
  cudaStream_t own = nullptr;
  check_cuda(cudaMalloc(&memory, bytes), "device table: memory");
  check_cuda(cudaStreamCreateWithFlags(&own, cudaStreamNonBlocking), "device table: stream");
  check_cuda(cudaMemcpyAsync(memory, table.data(), bytes, cudaMemcpyHostToDevice, own), "device table: upload");
  check_cuda(cudaStreamSynchronize(own), "device table: upload");
  check_cuda(cudaStreamDestroy(own), "device table: stream");
  if (entry.in_turns != nullptr) TablePool::get().give_back(entry.in_turns);
  entry = {entry.chunk, entry.device, revision_, blocks, nullptr, memory};
}

void DeviceTables::upload(Entry& entry, std::size_t bytes, void* stream, const Fill& fill) {
  TableMemory* const next = TablePool::get().take(entry.device, bytes);
  if (entry.in_turns != nullptr) TablePool::get().give_back(entry.in_turns);
  entry = {entry.chunk, entry.device, 0, fill(next->staging), next, next->memory};
  const auto own = static_cast<cudaStream_t>(stream);
  check_cuda(cudaMemcpyAsync(next->memory, next->staging, bytes, cudaMemcpyHostToDevice, own), "device table: upload");
  check_cuda(cudaEventRecord(next->last_use, own), "device table: event");
  entry.revision = revision_;
}

DeviceTables::Place DeviceTables::prepare(std::int64_t chunk, std::size_t bytes, int device, void* stream,
                                          const Fill& fill) {
  const auto own = static_cast<cudaStream_t>(stream);
  Entry& entry = entry_of(chunk, device);
  const bool is_current = entry.revision == revision_;
  if (is_captured(own)) {
    if (!is_current || entry.in_turns != nullptr) keep_for_good(entry, bytes, fill);
  } else if (!is_current) {
    upload(entry, bytes, stream, fill);
  } else if (entry.in_turns != nullptr) {
    check_cuda(cudaStreamWaitEvent(own, entry.in_turns->last_use, 0), "device table: event");
  }
  return {entry.memory, entry.blocks};
}

void DeviceTables::used(std::int64_t chunk, int device, void* stream) {
  const Entry& entry = entry_of(chunk, device);
  if (entry.in_turns == nullptr) return;
  check_cuda(cudaEventRecord(entry.in_turns->last_use, static_cast<cudaStream_t>(stream)), "device table: event");
}

}  // namespace pyparallel
