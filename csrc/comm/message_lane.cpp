// Waiting at the doorbell with the peers in view, and the thread that stands in for callers who do not wait.
//
// Most receives are waited for at once, and waking a thread for them would cost more than the message. So the thread
// looks for work every kNap, serves only what nobody waits for, and parks when there has been nothing for a while.
#include "comm/message_lane.hpp"

#include <chrono>

#include "core/clock.hpp"
#include "core/error.hpp"

namespace pyparallel {
namespace {

constexpr std::chrono::microseconds kNap{500};
constexpr int kNapsBeforeParking = 20;
constexpr std::int64_t kBackgroundYieldNs = 20'000;  // the thread shares its core with the computation it overlaps

}  // namespace

MessageLane::MessageLane(shm::Communicator& communicator)
    : communicator_(communicator),
      messenger_(communicator.control(), communicator.rank(), communicator.processes(), communicator.segments()) {}

MessageLane::~MessageLane() { close(); }

void MessageLane::close() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
    break_with(std::make_exception_ptr(InvalidArgument("the communicator is closed")));
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void MessageLane::fail(const std::exception_ptr& error) {
  std::lock_guard<std::mutex> lock(mutex_);
  break_with(error);
}

void MessageLane::submit(const std::shared_ptr<shm::Message>& message) {
  message->submitted_ns = now_ns();
  std::lock_guard<std::mutex> lock(mutex_);
  if (broken_) std::rethrow_exception(broken_);
  message->flight = communicator_.flights().submit(message->sending ? shm::kSendKind : shm::kRecvKind, message->dtype,
                                                   message->count, message->peer, message->tag);
  guarded([&] {
    messenger_.start(message);
    run(message.get());
  });
  if (message->sending && !message->completed.load() && communicator_.has_left(message->peer))
    guarded([&] { look_after_peers(describe(*message)); });
  if (messenger_.busy()) call_thread();
}

void MessageLane::wait(shm::Message& message, const std::function<bool()>& interrupted) {
  const std::int64_t start = now_ns(), patience = communicator_.oversubscribed() ? 0 : shm::Patience{}.yield_ns;
  shm::Flag& bell = messenger_.doorbell();
  std::int64_t yield_ns = patience;
  std::unique_lock<std::mutex> lock(mutex_);
  ++waiters_;
  for (;;) {
    const std::uint32_t seen = bell.value.load(std::memory_order_acquire);
    guarded([&] { run(&message); });
    if (message.completed.load(std::memory_order_acquire)) break;
    lock.unlock();
    const bool rung = shm::wait(bell, seen + 1, yield_ns, shm::Communicator::kSliceNs);
    yield_ns = rung ? patience : 0;
    const bool stopped = !rung && interrupted && interrupted();  // takes the GIL: not under the lock
    lock.lock();
    if (rung) continue;
    if (!message.completed.load()) communicator_.flights().wait_for(shm::Lane::kMessages, message.flight, message.peer);
    guarded([&] {
      look_after_peers(describe(message));
      if (message.completed.load()) return;
      const std::string who = "rank " + std::to_string(communicator_.rank());
      if (stopped) throw shm::Interrupted(who + " was interrupted in " + describe(message));
      if (now_ns() - start > communicator_.timeout_ns())
        throw CollectiveTimeoutError(who + " waited " + std::to_string(communicator_.timeout_ns() / 1'000'000) +
                                     " ms in " + describe(message) + ", which had no answer\n" +
                                     who_waits(communicator_.control()));
    });
  }
  // A wait that failed stays in the flight record: that is what it is for.
  if (--waiters_ == 0 && !message.error) communicator_.flights().wait_for(shm::Lane::kMessages, 0, 0);
  if (messenger_.busy()) call_thread();
  lock.unlock();
  if (message.error) std::rethrow_exception(message.error);
}

bool MessageLane::test(shm::Message& message) {
  if (message.completed.load(std::memory_order_acquire)) return true;
  std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
  if (lock.owns_lock()) guarded([&] { run(&message); });
  return message.completed.load(std::memory_order_acquire);
}

bool MessageLane::withdraw(shm::Message& message) {
  std::lock_guard<std::mutex> lock(mutex_);
  bool withdrawn = false;
  guarded([&] {
    run(&message);
    withdrawn = messenger_.withdraw(message);
  });
  return withdrawn;
}

template <typename Function>
void MessageLane::guarded(const Function& function) {
  const std::uint64_t before = messenger_.completed();
  try {
    function();
  } catch (const PeerMemoryError&) {
    stop_with(communicator_.liveness().explain(std::current_exception(), "a message"));
  } catch (...) {
    stop_with(std::current_exception());
  }
  // Another waiter sleeps at the doorbell and would not see that its message is completed.
  if (messenger_.completed() != before && waiters_ > 0) ring(messenger_.inbox());
}

void MessageLane::run(const shm::Message* until) {
  while (!broken_ && !(until && until->completed.load(std::memory_order_relaxed)) && messenger_.progress()) {
  }
}

void MessageLane::stop_with(const std::exception_ptr& error) {
  communicator_.tell_peers(error, "a message");
  break_with(error);
}

void MessageLane::break_with(const std::exception_ptr& error) {
  if (!broken_) broken_ = error;
  messenger_.fail(broken_);
  ring(messenger_.inbox());
}

// Messages with ranks that have left fail one by one, after what those had sent before; a death breaks the lane.
void MessageLane::look_after_peers(const std::string& doing) {
  for (int r = 0; r < communicator_.world_size(); ++r) {
    if (r == communicator_.rank() || !communicator_.has_left(r)) continue;
    run(nullptr);
    messenger_.lose(r, [&](const std::string& lost) { communicator_.liveness().check(r, lost); });
  }
  communicator_.liveness().check(communicator_.rank(), doing);
}

void MessageLane::call_thread() {
  if (!thread_.joinable()) {
    thread_ = std::thread([this] { background(); });
  } else if (parked_) {
    parked_ = false;
    wake_.notify_all();
  }
}

void MessageLane::background() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (int naps = 0; !stop_;) {
    if (parked_)
      wake_.wait(lock, [&] { return stop_ || !parked_; });
    else
      wake_.wait_for(lock, kNap, [&] { return stop_; });
    if (stop_) return;
    if (messenger_.busy() && waiters_ == 0) {
      naps = 0;
      serve(lock);
    } else if (++naps > kNapsBeforeParking) {
      naps = 0;
      parked_ = true;
    }
  }
}

void MessageLane::serve(std::unique_lock<std::mutex>& lock) {
  shm::Flag& bell = messenger_.doorbell();
  for (std::int64_t yield_ns = kBackgroundYieldNs; !stop_ && waiters_ == 0;) {
    const std::uint32_t seen = bell.value.load(std::memory_order_acquire);
    guarded([&] { run(nullptr); });
    if (!messenger_.busy()) return;
    lock.unlock();
    const bool rung = shm::wait(bell, seen + 1, yield_ns, shm::Communicator::kSliceNs);
    yield_ns = rung && !communicator_.oversubscribed() ? kBackgroundYieldNs : 0;
    lock.lock();
    if (!rung) guarded([&] { look_after_peers("a message in the background"); });
  }
}

}  // namespace pyparallel
