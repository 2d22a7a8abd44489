// Replay: a recorded history of allocations through a pool's policy, ours or a peer's, to see what it would have held.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace pyparallel::memory {

// One event of a history. The block of an allocation is named by the number of the allocation, from 0.
struct TraceEvent {
  std::uint64_t block;
  std::uint64_t num_bytes;  // 0 with is_free
  std::uint64_t stream;
  bool is_free;
};

// How a pool decides. Addresses are numbers: nothing is allocated.
class Policy {
 public:
  virtual ~Policy() = default;
  virtual std::uint64_t allocate(std::uint64_t num_bytes, std::uint64_t stream) = 0;  // the address
  virtual void free(std::uint64_t address) = 0;
  virtual std::uint64_t reserved() const = 0;
};

struct ReplayResult {
  std::uint64_t peak_requested;  // bytes asked for, at once
  std::uint64_t peak_reserved;
  double nanoseconds;  // per event, of the whole replay
};

// "pyparallel": best fit in one range of pages; "pyparallel-segments": the same where memory cannot grow at its end;
// "torch", "torch-expandable": see torch_policy.hpp. Throws InvalidArgument for other names.
std::unique_ptr<Policy> make_policy(const std::string& name);

// Throws InvalidArgument for a history that frees what is not live, or names blocks out of order.
ReplayResult replay(const std::vector<TraceEvent>& events, Policy& policy);

}  // namespace pyparallel::memory
