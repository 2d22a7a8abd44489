// Pages of the host that every device can copy from and to while streams run: they are reused in stream order, too.
#pragma once
#include "memory/cuda_streams.hpp"

namespace pyparallel::memory {

// `device`: whose streams copy.
class PinnedUpstream : public CudaStreams {
 public:
  using CudaStreams::CudaStreams;

  const char* name() const override { return "pinned"; }
  std::uint64_t granularity() const override { return 2 << 20; }
  char* allocate(std::uint64_t num_bytes) override;
  bool extend(char*, std::uint64_t) override { return false; }
  void release(char* data, std::uint64_t num_bytes) noexcept override;  // synchronises
  bool release_waits() const override { return true; }
};

}  // namespace pyparallel::memory
