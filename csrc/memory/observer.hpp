// What a pool tells of itself while somebody watches it.
#pragma once
#include <cstdint>
#include <string>

#include "memory/upstream.hpp"

namespace pyparallel::memory {

// Where in the program a block was asked for, as its observer numbers places. 0: nobody knows.
using CallSite = std::uint32_t;

enum class Action : std::uint8_t {
  kAllocate,
  kFreeRequested,  // by the caller
  kFreeCompleted,  // no other stream uses it any more; told only of blocks that other streams used
  kSegmentAllocate,
  kSegmentExtend,
  kSegmentRelease,
  kPagesRelease,  // of a segment, which keeps their addresses, or ends if nothing else is left of it
  kPagesRestore,
  kOutOfMemory,  // `num_bytes` were asked for
  kListed,       // somebody looked at the pool's blocks: what was told before is in that list
};

struct Report {
  Action action;
  const void* data;
  std::uint64_t num_bytes;  // requested, of a block; whole, of a segment
  Stream stream;
  CallSite site;
};

class Observer {
 public:
  virtual ~Observer() = default;
  // The caller's place. Called by the thread that allocates or frees, before the pool takes a lock.
  virtual CallSite call_site() noexcept = 0;
  // Any thread, perhaps under the pool's lock: calls neither Python nor the pool.
  virtual void record(const Report& report) noexcept = 0;
  // A place in words, as "train.py:31 in step"; empty for 0. Any thread, without the pool's lock; calls no Python.
  virtual std::string describe(CallSite) const { return {}; }
};

}  // namespace pyparallel::memory
