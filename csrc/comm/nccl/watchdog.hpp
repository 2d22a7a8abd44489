// A thread that looks after one communicator, without Python: it goes on while the interpreter is busy.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

#include "comm/nccl/communicator.hpp"

namespace pyparallel::nccl {

class Communicator::Watchdog {
 public:
  Watchdog(Communicator& communicator, int device, std::int64_t period_ns);
  ~Watchdog();

 private:
  void run();

  Communicator& communicator_;
  const int device_;
  const std::int64_t period_ns_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace pyparallel::nccl
