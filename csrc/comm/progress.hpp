// Collectives in issue order: a queue drained by whoever waits, or by the progress thread while the caller computes.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "comm/shm/communicator.hpp"
#include "comm/work.hpp"

namespace pyparallel {

// One collective in flight.
struct CollectiveWork : Work {
  shm::Collective collective;
  bool posted = false;  // guarded by the queue's run lock
};

class ProgressQueue {
 public:
  explicit ProgressQueue(shm::Communicator& communicator) : communicator_(communicator) {}
  // Abandons what has not been started and joins the thread.
  ~ProgressQueue();

  // Queues a collective; an idle queue posts it at once. `background`: the progress thread runs it while the caller
  // computes; otherwise it runs when somebody waits for it or for a later one.
  std::shared_ptr<Work> submit(const shm::Collective& collective, bool background);

  // Returns when the work is completed, running queued work itself if nobody else does; rethrows its error. When
  // `interrupted`, asked now and then while waiting, says true, it throws Interrupted, which breaks the communicator.
  void wait(Work& work, const std::function<bool()>& interrupted);

  // Lets the progress thread run what is queued: somebody asks whether it is completed, and may never wait for it.
  void hurry();

  // Fails everything queued and to come.
  void close();
  void fail(const std::exception_ptr& error);

 private:
  bool run_next(const shm::Patience& patience);  // requires running_
  void post(CollectiveWork& work);               // requires running_
  void progress();

  shm::Communicator& communicator_;
  std::mutex running_;  // held while a collective is posted or completed
  std::mutex mutex_;    // guards the members below
  std::condition_variable wake_, done_;
  std::deque<std::shared_ptr<CollectiveWork>> queue_;
  std::exception_ptr broken_;  // the first error: the ranks are out of step from then on
  std::uint32_t submitted_ = 0;
  bool background_ = false, stop_ = false;
  std::thread thread_;
};

}  // namespace pyparallel
