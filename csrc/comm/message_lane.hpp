// Sends and receives beside the collectives: driven by whoever waits for one, or by a thread while the caller computes
// or waits for something else.
#pragma once
#include <condition_variable>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "comm/shm/communicator.hpp"
#include "comm/shm/messenger.hpp"

namespace pyparallel {

class MessageLane {
 public:
  explicit MessageLane(shm::Communicator& communicator);
  // Abandons what is in flight and joins the thread.
  ~MessageLane();

  // Begins a message; it is completed at once if it can be. Rethrows the lane's first error.
  void submit(const std::shared_ptr<shm::Message>& message);

  // Returns when the message is completed; rethrows its error. When `interrupted`, asked now and then while waiting,
  // says true, it throws Interrupted, which breaks the lane.
  void wait(shm::Message& message, const std::function<bool()>& interrupted);

  // Whether the message is completed, after handling what has come for it.
  bool test(shm::Message& message);

  // Takes back a receive that no message has come for; false if one has, or if the lane is broken.
  bool withdraw(shm::Message& message);

  // Fails everything in flight and to come.
  void close();
  void fail(const std::exception_ptr& error);

 private:
  // All of these require mutex_.
  template <typename Function>
  void guarded(const Function& function);
  void run(const shm::Message* until);
  void stop_with(const std::exception_ptr& error);
  void break_with(const std::exception_ptr& error);
  void look_after_peers(const std::string& doing);
  void call_thread();

  void background();
  void serve(std::unique_lock<std::mutex>& lock);

  shm::Communicator& communicator_;
  std::mutex mutex_;  // guards the members below
  std::condition_variable wake_;
  shm::Messenger messenger_;
  std::exception_ptr broken_;  // the first error: the messages are out of step from then on
  int waiters_ = 0;            // callers in wait(): while there are any, they do the work
  bool parked_ = false;        // the thread sleeps until it is called
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace pyparallel
