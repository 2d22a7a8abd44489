// Pages of a sparse segment.
#include "memory/shared_upstream.hpp"

namespace pyparallel::memory {

SharedUpstream::SharedUpstream() : segment_(SharedSegment::reserve(most_addresses(), kLeastAddresses)) {
  use_range(segment_->data(), segment_->num_bytes());
}

std::optional<SharedPlace> SharedUpstream::locate(const void* data) { return SharedPlace{segment_, offset_of(data)}; }

bool SharedUpstream::open_pages(char* data, std::uint64_t num_bytes) {
  return segment_->populate(offset_of(data), num_bytes);
}

void SharedUpstream::close_pages(char* data, std::uint64_t num_bytes) noexcept {
  segment_->punch(offset_of(data), num_bytes);
}

}  // namespace pyparallel::memory
