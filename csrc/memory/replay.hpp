// Replay: a recorded history of allocations through a policy, to see what it would have held.
#pragma once
#include <vector>

#include "memory/policy.hpp"

namespace pyparallel::memory {

// Some events of a history, in order; arrays of `count`. Allocations are numbered 0, 1, ... in their order.
struct Events {
  const std::int64_t* block;      // the number of the allocation that is made or freed
  const std::int64_t* num_bytes;  // asked for; kFree where it is freed
  const std::uint64_t* stream;
  std::uint64_t count;
};
inline constexpr std::int64_t kFree = -1;

class Replay {
 public:
  explicit Replay(std::unique_ptr<Policy> policy) : policy_(std::move(policy)) {}

  // Goes on with more of the history. False once the device was too small: the rest is not looked at.
  // Throws InvalidArgument for a history that frees what is not live, or names allocations out of order.
  bool run(const Events& events);

  std::uint64_t peak_requested() const { return peak_requested_; }  // bytes asked for that were live at once
  std::uint64_t peak_reserved() const { return peak_reserved_; }
  std::uint64_t growths() const { return policy_->growths(); }
  double nanoseconds() const { return nanoseconds_; }  // of all events together

 private:
  struct Placed {
    Handle handle;
    std::uint64_t num_bytes;
    bool live;
  };
  bool allocate(std::int64_t block, std::int64_t num_bytes, std::uint64_t stream);
  void free(std::int64_t block);

  const std::unique_ptr<Policy> policy_;
  std::vector<Placed> placed_;
  std::uint64_t requested_ = 0, peak_requested_ = 0, peak_reserved_ = 0;
  double nanoseconds_ = 0;
  bool fits_ = true;
};

}  // namespace pyparallel::memory
