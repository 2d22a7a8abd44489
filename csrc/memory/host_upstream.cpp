// Pages of an address range that was reserved whole: opened at its end, and given back whole.
#include "memory/host_upstream.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

namespace pyparallel::memory {
namespace {

constexpr std::uint64_t kLeastRange = std::uint64_t{1} << 30;

std::uint64_t physical_memory() {
  return static_cast<std::uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace

// An address costs nothing until its page is opened; where addresses are limited (ulimit -v) a smaller range will do.
HostUpstream::HostUpstream() {
  for (std::uint64_t size = std::max(4 * physical_memory(), kLeastRange); size >= kLeastRange; size /= 2) {
    void* const range = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED) continue;
    const std::uintptr_t first = reinterpret_cast<std::uintptr_t>(range);
    const std::uintptr_t aligned = (first + granularity() - 1) / granularity() * granularity();
    range_ = static_cast<char*>(range);
    end_ = range_ + size;
    open_ = reinterpret_cast<char*>(aligned);
    return;
  }
}

HostUpstream::~HostUpstream() {
  if (range_ != nullptr) munmap(range_, static_cast<std::size_t>(end_ - range_));
}

bool HostUpstream::open_pages(char* data, std::uint64_t num_bytes) {
  if (data != open_ || num_bytes > static_cast<std::uint64_t>(end_ - open_)) return false;
  if (mprotect(data, num_bytes, PROT_READ | PROT_WRITE) != 0) return false;
  open_ += num_bytes;
  return true;
}

char* HostUpstream::allocate(std::uint64_t num_bytes) {
  char* const data = open_;
  return open_pages(data, num_bytes) ? data : nullptr;
}

bool HostUpstream::extend(char* end, std::uint64_t num_bytes) { return open_pages(end, num_bytes); }

void HostUpstream::release(char* data, std::uint64_t num_bytes) noexcept {
  madvise(data, num_bytes, MADV_DONTNEED);
  mprotect(data, num_bytes, PROT_NONE);
  if (data + num_bytes == open_) open_ = data;
}

}  // namespace pyparallel::memory
