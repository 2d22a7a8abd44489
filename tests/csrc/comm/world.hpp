// A world of ranks inside one process, one thread each: what the sanitizers can watch.
#pragma once
#include <unistd.h>

#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "comm/shm/communicator.hpp"

inline const pyparallel::shm::Patience kPatience{};

// Runs body(communicator) on `world_size` threads that have joined one control segment.
inline void with_world(int world_size, const std::function<void(pyparallel::shm::Communicator&)>& body,
                       double timeout_seconds = 60.0) {
  const auto control = pyparallel::shm::Communicator::create_control(world_size);
  const std::vector<int> processes(static_cast<std::size_t>(world_size), getpid());
  std::vector<std::thread> ranks;
  for (int r = 0; r < world_size; ++r)
    ranks.emplace_back([&, r] {
      pyparallel::shm::Communicator communicator(control, r, processes, timeout_seconds);
      communicator.join(kPatience);
      body(communicator);
      communicator.leave();
    });
  for (std::thread& rank : ranks) rank.join();
}

// Memory of one rank: ordinary or shared.
class Operand {
 public:
  Operand(std::size_t count, bool shared) : own_(shared ? 0 : count), count_(count) {
    if (shared) segment_ = pyparallel::SharedSegment::create(count * sizeof(float) + 64);
  }
  Operand(const Operand&) = delete;
  Operand& operator=(const Operand&) = delete;

  // An odd place in the segment, so that ranks' offsets need not be aligned.
  float* data() { return segment_ ? reinterpret_cast<float*>(segment_->data()) + 3 : own_.data(); }
  std::size_t size() const { return count_; }
  float& operator[](std::size_t i) { return data()[i]; }

 private:
  std::shared_ptr<pyparallel::SharedSegment> segment_;
  std::vector<float> own_;
  std::size_t count_;
};

inline void run(pyparallel::shm::Communicator& communicator, const pyparallel::shm::Collective& collective) {
  communicator.post(collective);
  communicator.complete(collective, kPatience);
}
