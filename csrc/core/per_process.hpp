// One object of a kind in each process: a forked child gets a new one, so that no lock is held that nobody will
// release.
#pragma once
#include <atomic>
#include <cstdint>

#include "core/fork.hpp"

namespace pyparallel {

// Never destroyed: what it holds may be asked for while the process ends.
template <class T>
class PerProcess {
 public:
  // Made on first use. One load after that; never a lock.
  T& get() { return made().value; }
  // Whether a parent of this process had one.
  bool inherited() { return made().inherited; }

 private:
  struct Made {
    std::uint64_t fork_depth;
    bool inherited;
    T value{};
  };

  Made& made() {
    Made* now = made_.load(std::memory_order_acquire);
    if (now != nullptr && now->fork_depth == fork_depth()) [[likely]]
      return *now;
    Made* const fresh = new Made{fork_depth(), now != nullptr};
    if (made_.compare_exchange_strong(now, fresh)) return *fresh;
    delete fresh;  // another thread was first
    return *now;
  }

  std::atomic<Made*> made_{nullptr};
};

}  // namespace pyparallel
