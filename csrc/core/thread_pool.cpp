// The pool behind parallel_for where torch has no threads to lend: workers wait on a condition variable for tasks.
#include "core/thread_pool.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "core/borrowed_team.hpp"

namespace pyparallel {
namespace {

// One call of parallel_for, on the caller's stack. Workers touch it only between joining and leaving the round.
struct Round {
  void (*body)(void*, std::int64_t);
  void* context;
  std::int64_t tasks;
  std::atomic<std::int64_t> next{0};

  void run() {
    for (std::int64_t task = next.fetch_add(1); task < tasks; task = next.fetch_add(1)) body(context, task);
  }
};

class Pool {
 public:
  // False when another round is in progress: the caller then runs alone instead of waiting.
  bool run(Round& round, int helpers) {
    std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
    if (!turn.owns_lock()) return false;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      for (; started_ < helpers; ++started_) std::thread([this] { work(); }).detach();
      round_ = &round;
      open_places_ = helpers;
    }
    wake_.notify_all();
    round.run();
    std::unique_lock<std::mutex> lock(mutex_);
    round_ = nullptr;
    open_places_ = 0;
    left_.wait(lock, [this] { return inside_ == 0; });
    return true;
  }

 private:
  void work() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return open_places_ > 0; });
      --open_places_;
      ++inside_;
      Round* round = round_;
      lock.unlock();
      round->run();
      lock.lock();
      if (--inside_ == 0) left_.notify_one();
    }
  }

  std::mutex turn_;   // held by the caller whose round it is
  std::mutex mutex_;  // guards everything below
  std::condition_variable wake_, left_;
  Round* round_ = nullptr;
  int open_places_ = 0;  // workers that may still join the round
  int inside_ = 0;       // workers in the round
  int started_ = 0;
};

// Never destroyed: detached workers may outlive static destruction. A forked child has no workers, so it gets a new
// pool.
std::atomic<Pool*> current_pool{nullptr};

Pool& pool() {
  static const bool installed = [] {
    current_pool.store(new Pool);
    pthread_atfork(nullptr, nullptr, [] { current_pool.store(new Pool); });
    return true;
  }();
  (void)installed;
  return *current_pool.load();
}

}  // namespace

void parallel_for(std::int64_t tasks, int threads, void (*body)(void*, std::int64_t), void* context) {
  Round round{body, context, tasks};
  const int helpers = static_cast<int>(std::min<std::int64_t>(threads, tasks)) - 1;
  if (helpers < 1) return round.run();
  // All of torch's threads, even where there are fewer tasks: a team that changes its size is made anew.
  const auto run = [](void* shared) { static_cast<Round*>(shared)->run(); };
  if (!run_on_borrowed_team(threads, run, &round) && !pool().run(round, helpers)) round.run();
}

}  // namespace pyparallel
