// Where a pool's memory comes from, and the streams and events that order its use there.
#pragma once
#include <cstdint>

namespace pyparallel::memory {

inline constexpr std::uint64_t kAlignment = 512;  // of every block, in bytes

// A stream as its owner knows it. Handles are recycled when a stream is destroyed, so nothing is keyed by them.
using Stream = std::uintptr_t;
// What a stream is, for as long as the process lives.
using StreamId = std::uint64_t;
// A point in a stream's work.
using Event = std::uintptr_t;

class Upstream {
 public:
  virtual ~Upstream() = default;
  virtual const char* name() const = 0;
  virtual std::uint64_t granularity() const = 0;  // sizes are multiples of this many bytes

  // Memory aligned to kAlignment, or nullptr if there is none. The caller owns it. May synchronise.
  virtual char* allocate(std::uint64_t num_bytes) = 0;
  // Makes [end, end + num_bytes) part of the allocation that ends there; false where that cannot be.
  virtual bool extend(char* end, std::uint64_t num_bytes) = 0;
  // Gives back a whole allocation with its extensions. Nothing uses it any more.
  virtual void release(char* data, std::uint64_t num_bytes) noexcept = 0;

  virtual StreamId identity(Stream stream) = 0;
  // Whether the stream's work is being captured into a graph. Then it takes no event of ours, and waits for none.
  virtual bool capturing(Stream) { return false; }
  virtual Event record(Stream stream) = 0;            // after all work that is in the stream now
  virtual bool passed(Event event) = 0;               // never waits
  virtual void wait(Stream stream, Event event) = 0;  // the stream's later work waits, the caller does not
  virtual void synchronize(Event event) = 0;          // the caller waits
  virtual void destroy(Event event) noexcept = 0;
};

}  // namespace pyparallel::memory
