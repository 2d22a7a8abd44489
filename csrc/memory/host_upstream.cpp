// Anonymous pages, opened for use one after the other.
#include "memory/host_upstream.hpp"

#include <sys/mman.h>

namespace pyparallel::memory {

HostUpstream::HostUpstream() {
  for (std::uint64_t size = most_addresses(); size >= kLeastAddresses; size /= 2) {
    void* const range = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED) continue;
    range_ = static_cast<char*>(range);
    num_bytes_ = size;
    use_range(range_, num_bytes_);
    return;
  }
}

HostUpstream::~HostUpstream() {
  if (range_ != nullptr) munmap(range_, num_bytes_);
}

bool HostUpstream::open_pages(char* data, std::uint64_t num_bytes) {
  return mprotect(data, num_bytes, PROT_READ | PROT_WRITE) == 0;
}

// They stay accessible and read as zeros: closing each would cut the range into more mappings than the kernel allows.
void HostUpstream::close_pages(char* data, std::uint64_t num_bytes) noexcept {
  madvise(data, num_bytes, MADV_DONTNEED);
}

}  // namespace pyparallel::memory
