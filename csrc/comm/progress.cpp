// The queue, the waiter that runs queued work itself, and the progress thread.
#include "comm/progress.hpp"

#include <chrono>

#include "core/clock.hpp"
#include "core/error.hpp"

namespace pyparallel {
namespace {

// The progress thread shares its core with the computation it overlaps: it gives up the core soon.
const shm::Patience kBackgroundPatience{50'000, {}};

}  // namespace

ProgressQueue::~ProgressQueue() { close(); }

void ProgressQueue::close() {
  std::thread thread;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
    if (!broken_) broken_ = std::make_exception_ptr(InvalidArgument("the communicator is closed"));
    thread = std::move(thread_);
  }
  communicator_.abandon();
  wake_.notify_all();
  if (thread.joinable()) thread.join();
}

void ProgressQueue::fail(const std::exception_ptr& error) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!broken_) broken_ = error;
}

std::shared_ptr<Work> ProgressQueue::submit(const shm::Collective& collective, bool background) {
  auto work = std::make_shared<CollectiveWork>();
  work->collective = collective;
  work->submitted_ns = now_ns();
  std::unique_lock<std::mutex> running(running_, std::try_to_lock);
  bool alone;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (broken_) std::rethrow_exception(broken_);
    alone = queue_.empty();
    work->flight = communicator_.log_flight(collective, ++submitted_);
    queue_.push_back(work);
  }
  const bool at_once = running.owns_lock() && alone;
  if (at_once) post(*work);
  if (running.owns_lock()) running.unlock();
  // A small collective that is posted needs no thread: peers have its operand, and the waiter combines.
  if (background && !(at_once && communicator_.through_slot(collective))) hurry();
  return work;
}

void ProgressQueue::hurry() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (stop_ || queue_.empty()) return;
  background_ = true;
  if (!thread_.joinable()) thread_ = std::thread([this] { progress(); });
  wake_.notify_one();
}

void ProgressQueue::post(CollectiveWork& work) {
  if (work.posted) return;
  work.posted = true;
  communicator_.post(work.collective);
}

bool ProgressQueue::run_next(const shm::Patience& patience) {
  std::shared_ptr<CollectiveWork> work;
  std::exception_ptr error;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (queue_.empty()) return false;
    work = queue_.front();
    error = broken_;
  }
  const std::int64_t waited = communicator_.waited_ns();
  work->started_ns = now_ns();
  shm::FlightLog& flights = communicator_.flights();
  flights.start(work->flight);
  if (!error) {
    try {
      post(*work);
      communicator_.complete(work->collective, patience, work->flight);
    } catch (const PeerMemoryError&) {
      error = communicator_.liveness().explain(std::current_exception(), communicator_.describe(work->collective));
    } catch (...) {
      error = std::current_exception();
    }
    if (error) communicator_.tell_peers(error, communicator_.describe(work->collective));
  }
  work->ended_ns = now_ns();
  flights.end(work->flight, error != nullptr);
  work->waited_ns = communicator_.waited_ns() - waited;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    queue_.pop_front();
    if (error && !broken_) broken_ = error;
    work->error = error;
    work->completed.store(true, std::memory_order_release);
  }
  done_.notify_all();
  return true;
}

void ProgressQueue::wait(Work& work, const std::function<bool()>& interrupted) {
  const shm::Patience patience{shm::Patience{}.yield_ns, interrupted};
  while (!work.completed.load(std::memory_order_acquire)) {
    std::unique_lock<std::mutex> running(running_, std::try_to_lock);
    if (running.owns_lock()) {
      while (!work.completed.load(std::memory_order_acquire) && run_next(patience)) {
      }
      continue;
    }
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait_for(lock, std::chrono::nanoseconds(shm::Communicator::kSliceNs),
                   [&] { return work.completed.load(std::memory_order_acquire); });
    lock.unlock();
    if (interrupted && interrupted()) throw shm::Interrupted("interrupted while waiting for a collective");
  }
  if (work.error) std::rethrow_exception(work.error);
}

void ProgressQueue::progress() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    wake_.wait(lock, [&] { return stop_ || background_; });
    if (stop_) return;
    background_ = false;
    lock.unlock();
    {
      std::lock_guard<std::mutex> running(running_);
      while (run_next(kBackgroundPatience)) {
      }
    }
    lock.lock();
  }
}

}  // namespace pyparallel
