// The driver's calls for virtual memory, reached as on a device: by name, through the runtime.
//
// A page whose work is not over may be unmapped, as on a device: the work then faults.
#include <cuda.h>
#include <sys/mman.h>

#include <cstring>
#include <map>
#include <mutex>
#include <string_view>

#include "emulation/report.hpp"
#include "emulation/runtime.hpp"

using namespace pyparallel::emulation;

namespace {

constexpr std::size_t kPage = 2 << 20;

struct Range {
  void* mapping;
  std::size_t bytes;  // of the mapping: more than asked for, so that there is an aligned part
};

// Guarded by the runtime's lock.
std::map<CUdeviceptr, Range> ranges;
std::map<CUmemGenericAllocationHandle, std::size_t> allocations;  // not mapped yet
CUmemGenericAllocationHandle last_allocation = 0;

void* memory_of(CUdeviceptr address) { return reinterpret_cast<void*>(address); }

CUresult forbid_beside_capture() {
  return Runtime::get().forbid_beside_capture() == cudaSuccess ? CUDA_SUCCESS : CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

CUresult get_error_name(CUresult error, const char** name) {
  *name = error == CUDA_ERROR_OUT_OF_MEMORY                ? "CUDA_ERROR_OUT_OF_MEMORY"
          : error == CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED ? "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"
                                                           : "an error of the emulated driver";
  return CUDA_SUCCESS;
}

CUresult get_granularity(std::size_t* bytes, const CUmemAllocationProp*, CUmemAllocationGranularity_flags) {
  *bytes = kPage;
  return CUDA_SUCCESS;
}

CUresult address_reserve(CUdeviceptr* address, std::size_t bytes, std::size_t alignment, CUdeviceptr,
                         unsigned long long) {
  Unseen unseen;
  if (const CUresult error = forbid_beside_capture()) return error;
  if (bytes % kPage != 0) return CUDA_ERROR_INVALID_VALUE;
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* const mapping = mmap(nullptr, bytes + alignment, PROT_NONE, flags, -1, 0);
  if (mapping == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  *address = (reinterpret_cast<CUdeviceptr>(mapping) + alignment - 1) / alignment * alignment;
  const std::lock_guard<Lock> guard(Runtime::get().lock);
  ranges[*address] = {mapping, bytes + alignment};
  return CUDA_SUCCESS;
}

CUresult address_free(CUdeviceptr address, std::size_t) {
  Unseen unseen;
  if (const CUresult error = forbid_beside_capture()) return error;
  const std::lock_guard<Lock> guard(Runtime::get().lock);
  const auto range = ranges.find(address);
  if (range == ranges.end()) return CUDA_ERROR_INVALID_VALUE;
  munmap(range->second.mapping, range->second.bytes);
  ranges.erase(range);
  return CUDA_SUCCESS;
}

CUresult create(CUmemGenericAllocationHandle* handle, std::size_t bytes, const CUmemAllocationProp*,
                unsigned long long) {
  Unseen unseen;
  if (const CUresult error = forbid_beside_capture()) return error;
  Runtime& runtime = Runtime::get();
  const std::lock_guard<Lock> guard(runtime.lock);
  std::size_t unmapped = bytes;
  for (const auto& [other, size] : allocations) unmapped += size;
  if (runtime.memory.bytes_in_use() + unmapped > runtime.config.device_bytes) return CUDA_ERROR_OUT_OF_MEMORY;
  *handle = ++last_allocation;
  allocations[*handle] = bytes;
  return CUDA_SUCCESS;
}

// A mapping keeps its memory, whether the handle is released or not.
CUresult release(CUmemGenericAllocationHandle handle) {
  Unseen unseen;
  if (const CUresult error = forbid_beside_capture()) return error;
  const std::lock_guard<Lock> guard(Runtime::get().lock);
  allocations.erase(handle);
  return CUDA_SUCCESS;
}

CUresult map(CUdeviceptr address, std::size_t bytes, std::size_t, CUmemGenericAllocationHandle handle,
             unsigned long long) {
  Unseen unseen;
  if (const CUresult error = forbid_beside_capture()) return error;
  Runtime& runtime = Runtime::get();
  const std::lock_guard<Lock> guard(runtime.lock);
  const auto allocation = allocations.find(handle);
  if (allocation == allocations.end() || allocation->second != bytes || runtime.memory.owns(memory_of(address)))
    return CUDA_ERROR_INVALID_VALUE;
  allocations.erase(allocation);
  runtime.memory.adopt(memory_of(address), bytes);
  return CUDA_SUCCESS;
}

CUresult set_access(CUdeviceptr address, std::size_t bytes, const CUmemAccessDesc*, std::size_t) {
  Unseen unseen;
  if (const CUresult error = forbid_beside_capture()) return error;
  Runtime& runtime = Runtime::get();
  const std::lock_guard<Lock> guard(runtime.lock);
  for (std::size_t done = 0; done < bytes; done += kPage)
    if (!runtime.memory.owns(memory_of(address + done))) return CUDA_ERROR_INVALID_VALUE;
  if (mprotect(memory_of(address), bytes, PROT_READ | PROT_WRITE) != 0) return CUDA_ERROR_OUT_OF_MEMORY;
  std::memset(memory_of(address), kFresh, bytes);
  if (runtime.guards_memory()) poison(memory_of(address), bytes);
  return CUDA_SUCCESS;
}

// Whole mappings only.
CUresult unmap(CUdeviceptr address, std::size_t bytes) {
  Unseen unseen;
  if (const CUresult error = forbid_beside_capture()) return error;
  Runtime& runtime = Runtime::get();
  const std::lock_guard<Lock> guard(runtime.lock);
  for (std::size_t done = 0; done < bytes; done += kPage)
    if (!runtime.memory.forget(memory_of(address + done))) return CUDA_ERROR_INVALID_VALUE;
  madvise(memory_of(address), bytes, MADV_DONTNEED);
  return mprotect(memory_of(address), bytes, PROT_NONE) == 0 ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN;
}

struct Entry {
  std::string_view name;
  void* function;
};

template <class Function>
Entry entry(std::string_view name, Function* function) {
  return {name, reinterpret_cast<void*>(function)};
}

}  // namespace

extern "C" cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned,
                                                        unsigned long long, cudaDriverEntryPointQueryResult* result) {
  static const Entry kEntries[] = {entry("cuGetErrorName", get_error_name),
                                   entry("cuMemGetAllocationGranularity", get_granularity),
                                   entry("cuMemAddressReserve", address_reserve),
                                   entry("cuMemAddressFree", address_free),
                                   entry("cuMemCreate", create),
                                   entry("cuMemRelease", release),
                                   entry("cuMemMap", map),
                                   entry("cuMemSetAccess", set_access),
                                   entry("cuMemUnmap", unmap)};
  *function = nullptr;
  *result = cudaDriverEntryPointSymbolNotFound;
  for (const Entry& entry : kEntries)
    if (entry.name == symbol) *function = entry.function, *result = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}
