// A copy that leaves its target in memory instead of in this core's cache: what another core reads next.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace pyparallel {

// Copies between ranges that do not overlap and makes the target visible to other cores like ordinary stores. Where the
// cores of two ranks do not share a last-level cache, fetching a line from the other core's cache, once to read it and
// once to overwrite it, is several times slower than passing it through memory; where they do share one, this loses
// little.
inline void stream_copy(char* target, const char* source, std::uint64_t bytes) {
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
  constexpr std::uint64_t kLine = 64;
  const std::uint64_t to_line = (0 - reinterpret_cast<std::uintptr_t>(target)) % kLine;
  const std::uint64_t head = to_line < bytes ? to_line : bytes;
  std::memcpy(target, source, head);
  std::uint64_t at = head;
  for (; at + kLine <= bytes; at += kLine)
    for (std::uint64_t i = at; i < at + kLine; i += sizeof(__m128i))
      _mm_stream_si128(reinterpret_cast<__m128i*>(target + i),
                       _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + i)));
  _mm_sfence();
  std::memcpy(target + at, source + at, bytes - at);
#else
  std::memcpy(target, source, bytes);  // sanitizers do not see streaming stores
#endif
}

}  // namespace pyparallel
