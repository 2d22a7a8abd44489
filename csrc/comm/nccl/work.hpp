// An operation on the comm stream: the events around it, the error that ended it, and when it ran.
#pragma once
#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace pyparallel::nccl {

// Events with timing, used again and again. A recorded event may be recorded anew while streams still wait for its
// earlier record: a wait is for the last record before it.
class EventPool : public std::enable_shared_from_this<EventPool> {
 public:
  explicit EventPool(int device) : device_(device) {}
  ~EventPool();
  EventPool(const EventPool&) = delete;
  EventPool& operator=(const EventPool&) = delete;

  using Event = std::shared_ptr<CUevent_st>;  // goes back to the pool with its last owner
  Event take();

 private:
  const int device_;
  std::mutex mutex_;
  std::vector<cudaEvent_t> free_;
};

// A moment that both the device and now_ns() know, by which events become times.
struct Epoch {
  EventPool::Event event;
  std::int64_t ns;
};

// Made by the communicator, which records the events and may end the work with an error; else read-only. Threads may
// share it.
class Work {
 public:
  Work(std::string description_, int peer_, int device)
      : description(std::move(description_)), peer(peer_), device_(device) {}

  const std::string description;  // "all_reduce(5 x float32)"
  const int peer;                 // the only other rank that it needs; -1: all

  // Makes `stream` wait for the end, not the host. Throws the error of a work that has one.
  void wait(cudaStream_t stream) const;
  // Whether the device has passed the end, or the work has an error.
  bool is_completed() const;
  // Whether the device has passed the beginning.
  bool has_started() const;
  std::exception_ptr error() const;

  // now_ns() of beginning and end; 0 until the device has passed them, and always for a captured work.
  std::int64_t started_ns() const { return time_of(start_); }
  std::int64_t ended_ns() const { return time_of(end_); }

  // ---- for the communicator ----
  void set_error(std::exception_ptr error);
  // The device has passed the end.
  bool has_ended() const;

 private:
  friend class Communicator;
  std::int64_t time_of(const EventPool::Event& event) const;

  const int device_;
  bool captured_ = false;  // recorded in a graph: its events are places there and cannot be asked
  EventPool::Event start_, end_;
  std::shared_ptr<const Epoch> epoch_;
  mutable std::atomic<bool> ended_{false};
  mutable std::mutex mutex_;
  std::exception_ptr error_;
};

}  // namespace pyparallel::nccl
