// Where the end of the allocation is.
#include "memory/host_pages.hpp"

#include <unistd.h>

#include <algorithm>

namespace pyparallel::memory {

// An address costs nothing until its page is opened, so there is room for holes. ThreadSanitizer leaves a program few
// addresses: there many pools must do with less each.
std::uint64_t HostPages::most_addresses() {
#if defined(__SANITIZE_THREAD__)
  return 4 * kLeastAddresses;
#else
  const auto physical =
      static_cast<std::uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  return std::max(4 * physical, kLeastAddresses);
#endif
}

void HostPages::use_range(char* data, std::uint64_t num_bytes) {
  const auto first = reinterpret_cast<std::uintptr_t>(data);
  open_ = data + ((first + granularity() - 1) / granularity() * granularity() - first);
  end_ = data + num_bytes;
}

char* HostPages::allocate(std::uint64_t num_bytes) {
  char* const data = open_;
  return extend(data, num_bytes) ? data : nullptr;
}

bool HostPages::extend(char* end, std::uint64_t num_bytes) {
  if (end != open_ || num_bytes > static_cast<std::uint64_t>(end_ - open_)) return false;
  if (!open_pages(end, num_bytes)) return false;
  open_ += num_bytes;
  return true;
}

void HostPages::release(char* data, std::uint64_t num_bytes) noexcept {
  close_pages(data, num_bytes);
  if (data + num_bytes == open_) open_ = data;
}

bool HostPages::release_pages(char* data, std::uint64_t num_bytes) noexcept {
  close_pages(data, num_bytes);
  return true;
}

}  // namespace pyparallel::memory
