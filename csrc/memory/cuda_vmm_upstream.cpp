// cuMemAddressReserve once, then cuMemCreate, cuMemMap and cuMemSetAccess page by page.
#include "memory/cuda_vmm_upstream.hpp"

#include <algorithm>
#include <string>

#include "core/cuda_check.hpp"
#include "core/device_guard.hpp"
#include "core/driver.hpp"
#include "core/outside_of_captures.hpp"

namespace pyparallel::memory {
namespace {

constexpr std::uint64_t kRangeFactor = 4;  // addresses for each byte of the device: holes keep theirs

CUdeviceptr address_of(const char* data) { return reinterpret_cast<CUdeviceptr>(data); }

CUmemLocation location_of(int device) {
  CUmemLocation location{};
  location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  location.id = device;
  return location;
}

CUmemAllocationProp page_properties(int device) {
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location = location_of(device);
  return properties;
}

}  // namespace

CudaVmmUpstream::~CudaVmmUpstream() {
  if (range_ == nullptr || exiting()) return;
  const OutsideOfCaptures outside;
  unmap(range_, mapped_.size() * page_);
  driver().mem_address_free(address_of(range_), static_cast<std::size_t>(end_ - range_));
}

// Not in the constructor: a pool that is never used opens no device.
void CudaVmmUpstream::reserve() {
  std::size_t available = 0, total = 0, page = 0;
  check_cuda(cudaMemGetInfo(&available, &total), "cudaMemGetInfo");
  const CUmemAllocationProp properties = page_properties(device_);
  check_driver(driver().mem_get_allocation_granularity(&page, &properties, CU_MEM_ALLOC_GRANULARITY_MINIMUM),
               "cuMemGetAllocationGranularity");
  if (page_ % page != 0)
    throw CudaError(cudaErrorNotSupported, "cuda-vmm: device " + std::to_string(device_) + " maps pages of " +
                                               std::to_string(page) + " bytes, of which 2 MiB are no multiple");
  const std::size_t num_bytes = (kRangeFactor * total + page_ - 1) / page_ * page_;
  CUdeviceptr range = 0;
  check_driver(driver().mem_address_reserve(&range, num_bytes, page_, 0, 0), "cuMemAddressReserve");
  range_ = open_ = reinterpret_cast<char*>(range);
  end_ = range_ + num_bytes;
  watch_exit();
}

char* CudaVmmUpstream::allocate(std::uint64_t num_bytes) {
  const OutsideOfCaptures outside;
  const DeviceGuard guard(device_);
  if (range_ == nullptr) reserve();
  char* const data = open_;
  return fits(num_bytes) && map(data, num_bytes) ? aligned(data) : nullptr;
}

bool CudaVmmUpstream::extend(char* end, std::uint64_t num_bytes) {
  return end == open_ && fits(num_bytes) && map(end, num_bytes);
}

// All of it, or nothing.
bool CudaVmmUpstream::map(char* data, std::uint64_t num_bytes) {
  const OutsideOfCaptures outside;
  const DeviceGuard guard(device_);
  mapped_.resize(std::max(mapped_.size(), page_of(data + num_bytes)));
  for (std::uint64_t done = 0; done < num_bytes; done += page_) {
    if (map_page(data + done)) continue;
    unmap(data, done);
    return false;
  }
  CUmemAccessDesc access{};
  access.location = location_of(device_);
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  const CUresult opened = driver().mem_set_access(address_of(data), num_bytes, &access, 1);
  if (opened != CUDA_SUCCESS) unmap(data, num_bytes);
  check_driver(opened, "cuMemSetAccess");
  open_ = std::max(open_, data + num_bytes);
  return true;
}

// The page lives as long as it is mapped: its handle is not kept.
bool CudaVmmUpstream::map_page(char* data) {
  const CUmemAllocationProp properties = page_properties(device_);
  CUmemGenericAllocationHandle page;
  const CUresult created = driver().mem_create(&page, page_, &properties, 0);
  if (created == CUDA_ERROR_OUT_OF_MEMORY) return false;
  check_driver(created, "cuMemCreate");
  const CUresult mapped = driver().mem_map(address_of(data), page_, 0, page, 0);
  check_driver(driver().mem_release(page), "cuMemRelease");
  if (mapped == CUDA_ERROR_OUT_OF_MEMORY) return false;
  check_driver(mapped, "cuMemMap");
  mapped_[page_of(data)] = true;
  return true;
}

void CudaVmmUpstream::unmap(char* data, std::uint64_t num_bytes) noexcept {
  const OutsideOfCaptures outside;
  for (std::uint64_t done = 0; done < num_bytes; done += page_) {
    if (!mapped_[page_of(data + done)]) continue;
    driver().mem_unmap(address_of(data + done), page_);
    mapped_[page_of(data + done)] = false;
  }
}

bool CudaVmmUpstream::release_pages(char* data, std::uint64_t num_bytes) noexcept {
  if (!exiting()) unmap(data, num_bytes);
  return true;
}

void CudaVmmUpstream::release(char* data, std::uint64_t num_bytes) noexcept {
  release_pages(data, num_bytes);
  if (data + num_bytes == open_) open_ = data;
}

}  // namespace pyparallel::memory
