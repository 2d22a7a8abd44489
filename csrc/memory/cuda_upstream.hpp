// Device memory of cudaMalloc: in segments that neither grow nor give back a part.
#pragma once
#include "memory/cuda_streams.hpp"

namespace pyparallel::memory {

class CudaUpstream : public CudaStreams {
 public:
  using CudaStreams::CudaStreams;

  const char* name() const override { return "cuda"; }
  std::uint64_t granularity() const override { return 2 << 20; }
  char* allocate(std::uint64_t num_bytes) override;
  bool extend(char*, std::uint64_t) override { return false; }
  void release(char* data, std::uint64_t num_bytes) noexcept override;  // synchronises the device
  bool release_waits() const override { return true; }
};

}  // namespace pyparallel::memory
