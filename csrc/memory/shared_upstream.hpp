// Memory that other processes of this host can map: all of it is one memfd segment that keeps its place in every
// process while it grows.
#pragma once
#include "memory/host_pages.hpp"

namespace pyparallel::memory {

// The segment lives as long as somebody holds it, the pool or whoever asked locate().
class SharedUpstream : public HostPages {
 public:
  SharedUpstream();

  const char* name() const override { return "shared"; }
  std::optional<SharedPlace> locate(const void* data) override;

 private:
  bool open_pages(char* data, std::uint64_t num_bytes) override;
  // Peers read zeros there from now on.
  void close_pages(char* data, std::uint64_t num_bytes) noexcept override;
  std::uint64_t offset_of(const void* data) const {
    return static_cast<std::uint64_t>(static_cast<const char*>(data) - segment_->data());
  }

  std::shared_ptr<SharedSegment> segment_;
};

}  // namespace pyparallel::memory
