// Ordinary memory. There are no streams: whatever a caller has freed may be used by anyone.
#pragma once
#include "memory/upstream.hpp"

namespace pyparallel::memory {

// Takes pages from a range of addresses reserved at first use, so that its one segment grows at the end.
class HostUpstream : public Upstream {
 public:
  HostUpstream();
  ~HostUpstream() override;

  const char* name() const override { return "host"; }
  std::uint64_t granularity() const override { return 2 << 20; }
  char* allocate(std::uint64_t num_bytes) override;
  bool extend(char* end, std::uint64_t num_bytes) override;
  void release(char* data, std::uint64_t num_bytes) noexcept override;

  StreamId identity(Stream stream) override { return stream; }
  Event record(Stream) override { return 0; }
  bool passed(Event) override { return true; }
  void wait(Stream, Event) override {}
  void synchronize() override {}
  void destroy(Event) noexcept override {}

 private:
  bool open_pages(char* data, std::uint64_t num_bytes);

  char* range_ = nullptr;
  char* end_ = nullptr;
  char* open_ = nullptr;  // pages before it are in use
};

}  // namespace pyparallel::memory
