// Which of two communicators of a process goes first: while a collective of the one is under way on all ranks, the
// other pauses between two pieces of its own. The one under way needs nothing of the other, so both come to an end.
#pragma once
#include <atomic>

namespace pyparallel::shm {

class Precedence {
 public:
  void begin() { under_way_.fetch_add(1); }
  void end() {
    if (under_way_.fetch_sub(1) == 1) under_way_.notify_all();
  }
  // Returns when nothing that goes first is under way here.
  void give_way() const {
    for (int count = under_way_.load(); count != 0; count = under_way_.load()) under_way_.wait(count);
  }

 private:
  std::atomic<int> under_way_{0};
};

}  // namespace pyparallel::shm
