// Memory of the host as pages of a range of addresses that was reserved whole. There are no streams: whatever a caller
// has freed may be used by anyone.
#pragma once
#include "memory/upstream.hpp"

namespace pyparallel::memory {

// One allocation that grows at its end, and gives back any page. Derived classes say what is behind a page.
class HostPages : public Upstream {
 public:
  std::uint64_t granularity() const override { return 2 << 20; }
  bool poisonable() const override { return true; }
  char* allocate(std::uint64_t num_bytes) override;
  bool extend(char* end, std::uint64_t num_bytes) override;
  void release(char* data, std::uint64_t num_bytes) noexcept override;
  bool release_pages(char* data, std::uint64_t num_bytes) noexcept override;
  bool restore_pages(char* data, std::uint64_t num_bytes) override { return open_pages(data, num_bytes); }

  StreamId identity(Stream stream) override { return stream; }
  Event record(Stream) override { return 0; }
  bool passed(Event) override { return true; }
  void wait(Stream, Event) override {}
  void destroy(Event) noexcept override {}
  bool await(Event) override { return true; }
  bool synchronize() override { return true; }

 protected:
  // At most how many addresses to reserve; fewer where they are limited (ulimit -v).
  static std::uint64_t most_addresses();
  static constexpr std::uint64_t kLeastAddresses = std::uint64_t{1} << 30;
  // The addresses that were reserved, once; the derived class gives them back.
  void use_range(char* data, std::uint64_t num_bytes);

  // Memory behind pages of the range; false if there is none.
  virtual bool open_pages(char* data, std::uint64_t num_bytes) = 0;
  virtual void close_pages(char* data, std::uint64_t num_bytes) noexcept = 0;

 private:
  char *open_ = nullptr, *end_ = nullptr;  // pages before open_ are of the allocation, or its holes
};

}  // namespace pyparallel::memory
