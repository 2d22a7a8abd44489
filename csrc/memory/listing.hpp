// A pool's memory and blocks as they were at one moment.
#pragma once
#include <cstdint>
#include <vector>

#include "memory/block.hpp"

namespace pyparallel::memory {

struct ListedBlock {
  const char* data;
  std::uint64_t num_bytes, requested;
  std::uint64_t serial;  // as Block has it
  Stream stream;         // the last handle of the stream in whose order it may be used
  CallSite site;
  State state;  // kLive or kPending, with what belongs to them, or kFree: also what a thread keeps for itself
};

// What lies between two holes of a segment, or all of it if it has none.
struct ListedSegment {
  const char* data;
  std::uint64_t num_bytes;
  std::vector<ListedBlock> blocks;  // in order of address, without a gap
};

}  // namespace pyparallel::memory
