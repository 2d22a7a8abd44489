// An operation in flight, of whichever lane: what its caller may ask about it.
#pragma once
#include <atomic>
#include <cstdint>
#include <exception>

namespace pyparallel {

// Times are now_ns(), 0 before.
struct Work {
  virtual ~Work() = default;
  std::atomic<bool> completed{false};
  std::exception_ptr error;  // set before `completed`
  std::int64_t submitted_ns = 0;
  std::atomic<std::int64_t> started_ns{0};  // when somebody began to complete it; it may have been posted before
  std::atomic<std::int64_t> ended_ns{0};
  std::uint64_t flight = 0;                // its number in the flight record
  std::atomic<std::int64_t> waited_ns{0};  // of the time between start and end, spent waiting for other ranks
};

}  // namespace pyparallel
