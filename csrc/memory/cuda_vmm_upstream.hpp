// Device memory in pages behind one range of addresses that was reserved whole: it grows at its end, and any page whose
// work is over goes back alone.
//
// Every page is a physical allocation of its own, because the driver unmaps whole mappings only. Memory mapped like
// this cannot be passed to another process through cudaIpcGetMemHandle.
#pragma once
#include <vector>

#include "memory/cuda_streams.hpp"

namespace pyparallel::memory {

class CudaVmmUpstream : public CudaStreams {
 public:
  using CudaStreams::CudaStreams;
  ~CudaVmmUpstream() override;

  const char* name() const override { return "cuda-vmm"; }
  // Of the device; 2 MiB on those known.
  std::uint64_t granularity() const override { return page_; }
  char* allocate(std::uint64_t num_bytes) override;
  bool extend(char* end, std::uint64_t num_bytes) override;
  void release(char* data, std::uint64_t num_bytes) noexcept override;
  bool release_waits() const override { return exiting(); }  // then nothing goes back
  bool release_pages(char* data, std::uint64_t num_bytes) noexcept override;
  bool restore_pages(char* data, std::uint64_t num_bytes) override { return map(data, num_bytes); }

 private:
  void reserve();
  bool map(char* data, std::uint64_t num_bytes);
  bool map_page(char* data);
  void unmap(char* data, std::uint64_t num_bytes) noexcept;
  bool fits(std::uint64_t num_bytes) const { return num_bytes <= static_cast<std::uint64_t>(end_ - open_); }
  std::size_t page_of(const char* data) const { return static_cast<std::size_t>(data - range_) / page_; }

  const std::uint64_t page_ = 2 << 20;
  char *range_ = nullptr, *end_ = nullptr;
  char* open_ = nullptr;      // pages before it are of an allocation, or its holes
  std::vector<bool> mapped_;  // by page, up to the furthest ever mapped
};

}  // namespace pyparallel::memory
