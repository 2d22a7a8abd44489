// One event after the other, timed together.
#include "memory/replay.hpp"

#include <algorithm>
#include <chrono>

#include "core/error.hpp"

namespace pyparallel::memory {

bool Replay::run(const Events& events) {
  const auto start = std::chrono::steady_clock::now();
  for (std::uint64_t i = 0; i < events.count && fits_; ++i) {
    if (events.num_bytes[i] == kFree)
      free(events.block[i]);
    else
      fits_ = allocate(events.block[i], events.num_bytes[i], events.stream[i]);
  }
  nanoseconds_ += std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count();
  return fits_;
}

bool Replay::allocate(std::int64_t block, std::int64_t num_bytes, std::uint64_t stream) {
  if (block != static_cast<std::int64_t>(placed_.size()))
    throw InvalidArgument("allocation " + std::to_string(placed_.size()) + " has the number " + std::to_string(block));
  if (num_bytes < 0)
    throw InvalidArgument("allocation " + std::to_string(block) + " has " + std::to_string(num_bytes) + " bytes");
  Placed placed{0, static_cast<std::uint64_t>(num_bytes), true};
  if (!policy_->allocate(placed.num_bytes, stream, &placed.handle)) return false;
  placed_.push_back(placed);
  requested_ += placed.num_bytes;
  peak_requested_ = std::max(peak_requested_, requested_);
  peak_reserved_ = std::max(peak_reserved_, policy_->reserved());
  return true;
}

void Replay::free(std::int64_t block) {
  if (block < 0 || block >= static_cast<std::int64_t>(placed_.size()) || !placed_[block].live)
    throw InvalidArgument("block " + std::to_string(block) + " is freed and not live");
  Placed& placed = placed_[block];
  placed.live = false;
  requested_ -= placed.num_bytes;
  policy_->free(placed.handle);
}

}  // namespace pyparallel::memory
