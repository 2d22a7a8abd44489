// Where a pool's memory comes from, and the streams and events that order its use there.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>

#include "core/shared_segment.hpp"

namespace pyparallel::memory {

inline constexpr std::uint64_t kAlignment = 512;  // of every block, in bytes

// A stream as its owner knows it. Handles are recycled when a stream is destroyed, so nothing is keyed by them.
using Stream = std::uintptr_t;
// What a stream is, for as long as the process lives.
using StreamId = std::uint64_t;
// A point in a stream's work.
using Event = std::uintptr_t;

// Where memory lies that other processes can map.
struct SharedPlace {
  std::shared_ptr<SharedSegment> segment;
  std::uint64_t offset;  // in bytes within the segment
};

// Only whole allocations go back to some upstreams. Where single pages do, release_pages() leaves their addresses to
// the allocation: a hole, until restore_pages() puts memory there again.
//
// A pool calls under its lock, but for identity() and capturing(), which any thread calls at any time.
class Upstream {
 public:
  virtual ~Upstream() = default;
  virtual const char* name() const = 0;
  // Whether its addresses are the host's, which AddressSanitizer can watch.
  virtual bool poisonable() const { return false; }
  virtual std::uint64_t granularity() const = 0;  // of a page: sizes are multiples of this many bytes

  // Memory aligned to kAlignment, or nullptr if there is none. The caller owns it. May synchronise.
  virtual char* allocate(std::uint64_t num_bytes) = 0;
  // Makes [end, end + num_bytes) part of the allocation that ends there; false where that cannot be.
  virtual bool extend(char* end, std::uint64_t num_bytes) = 0;
  // Gives back a whole allocation with its extensions and holes. Nothing uses it any more.
  virtual void release(char* data, std::uint64_t num_bytes) noexcept = 0;
  // Whether release() itself waits for all work.
  virtual bool release_waits() const { return false; }
  // Gives back pages inside an allocation, whole ones counted from its beginning; false where that cannot be. Nothing
  // uses them any more.
  virtual bool release_pages(char*, std::uint64_t) noexcept { return false; }
  // Memory for pages of a hole; false if there is none.
  virtual bool restore_pages(char*, std::uint64_t) { return false; }
  // For memory that can be shared with other processes: nullopt elsewhere.
  virtual std::optional<SharedPlace> locate(const void*) { return std::nullopt; }

  virtual StreamId identity(Stream stream) = 0;
  // Whether the stream's work is being captured into a graph. Then it takes no event of ours, and waits for none.
  virtual bool capturing(Stream) { return false; }
  virtual Event record(Stream stream) = 0;            // after all work that is in the stream now
  virtual bool passed(Event event) = 0;               // never waits
  virtual void wait(Stream stream, Event event) = 0;  // the stream's later work waits, the caller does not
  virtual void destroy(Event event) noexcept = 0;
  virtual bool await(Event event) = 0;  // the caller waits for it; false if a capture forbids that
  // The caller waits for all work of all streams; false if a capture forbids that. Where no stream tells that it
  // captures, the asking may cost it the capture: only for work that no event can be put behind.
  virtual bool synchronize() = 0;
};

}  // namespace pyparallel::memory
