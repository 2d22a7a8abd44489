// In builds with AddressSanitizer: host memory of a pool that is no live block's cannot be touched, so that a use after
// free and a write beyond the end are seen there as with malloc. In other builds nothing.
#pragma once
#include <cstdint>

#include "memory/upstream.hpp"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace pyparallel::memory {

#if defined(__SANITIZE_ADDRESS__)
inline void forbid(const Upstream& upstream, const char* data, std::uint64_t num_bytes) {
  if (upstream.poisonable()) __asan_poison_memory_region(data, num_bytes);
}
inline void allow(const Upstream& upstream, const char* data, std::uint64_t num_bytes) {
  if (upstream.poisonable()) __asan_unpoison_memory_region(data, num_bytes);
}
#else
inline void forbid(const Upstream&, const char*, std::uint64_t) {}
inline void allow(const Upstream&, const char*, std::uint64_t) {}
#endif

}  // namespace pyparallel::memory
