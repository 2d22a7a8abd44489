// Ordinary memory of this process.
#pragma once
#include "memory/host_pages.hpp"

namespace pyparallel::memory {

class HostUpstream : public HostPages {
 public:
  HostUpstream();
  ~HostUpstream() override;

  const char* name() const override { return "host"; }

 private:
  bool open_pages(char* data, std::uint64_t num_bytes) override;
  void close_pages(char* data, std::uint64_t num_bytes) noexcept override;

  char* range_ = nullptr;
  std::uint64_t num_bytes_ = 0;  // of the range
};

}  // namespace pyparallel::memory
