// What ends a communicator: NCCL's asynchronous errors, an operation past its deadline, ranks that died, failed or
// left.
#include "comm/nccl/watchdog.hpp"

#include <chrono>
#include <utility>

#include "core/clock.hpp"
#include "core/cuda_check.hpp"
#include "core/device_guard.hpp"
#include "core/error.hpp"

namespace pyparallel::nccl {
namespace {

// Who has died is known to others sooner or more exactly than to NCCL, which sees a broken connection.
inline constexpr std::int64_t kNamingNs = 1'000'000'000;
// After a rank has left, what it had a part in ends on its own, or never.
inline constexpr std::int64_t kLeftNs = 500'000'000;
// A call that holds the communicator for longer hangs: ncclCommAbort may come from another thread then.
inline constexpr std::int64_t kPatienceNs = 500'000'000;

}  // namespace

// ---- the thread ----

Communicator::Watchdog::Watchdog(Communicator& communicator, int device, std::int64_t period_ns)
    : communicator_(communicator), device_(device), period_ns_(period_ns), thread_([this] { run(); }) {}

Communicator::Watchdog::~Watchdog() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void Communicator::Watchdog::run() {
  // Asking an event would end a capture in another thread otherwise.
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  cudaThreadExchangeStreamCaptureMode(&mode);
  cudaSetDevice(device_);
  std::unique_lock<std::mutex> lock(mutex_);
  while (!stop_) {
    lock.unlock();
    communicator_.watch();
    lock.lock();
    wake_.wait_for(lock, std::chrono::nanoseconds(period_ns_), [this] { return stop_; });
  }
}

// ---- one look ----

void Communicator::watch() {
  if (failed_) return;
  try {
    Result state = Result::kSuccess;
    if (std::unique_lock<std::mutex> lock(comm_mutex_, std::try_to_lock); lock && comm_ != nullptr)
      state = ready(comm_);
    const std::int64_t now = now_ns();
    if (state != Result::kSuccess && state != Result::kInProgress) {
      if (error_since_ns_ == 0) error_since_ns_ = now;
      if (now - error_since_ns_ >= naming_ns()) check(doing().c_str(), state);
    }
    forget_ended();
    if (const WorkPointer work = oldest()) check_deadline(*work, now);
  } catch (const std::exception&) {
    fail(std::current_exception());
  }
}

// The first look at a broken communicator gives the peers' own words a moment to come.
std::int64_t Communicator::naming_ns() const { return std::min(kNamingNs, timeout_ns_); }

void Communicator::check_deadline(Work& work, std::int64_t now) {
  if (watched_ != &work || watched_since_ns_ == 0) {
    watched_ = &work;
    watched_since_ns_ = work.has_started() ? now : 0;  // what waits for the caller's stream has no deadline
    if (watched_since_ns_ == 0) return;
  }
  for (int peer = 0; peer < world_size_; ++peer) {
    std::int64_t left;
    {
      const std::lock_guard<std::mutex> lock(state_mutex_);
      left = left_ns_[static_cast<std::size_t>(peer)];
    }
    const bool needed = work.peer < 0 || work.peer == peer;
    if (needed && left != 0 && now - std::max(left, watched_since_ns_) > kLeftNs)
      throw PeerLostError(name_of(peer), "rank " + std::to_string(name_of(peer)) +
                                             " left and closed its communicator; " + who() + " was in " +
                                             work.description);
  }
  if (now - watched_since_ns_ > timeout_ns_)
    throw CollectiveTimeoutError(who() + " waited " + std::to_string(timeout_ns_ / 1'000'000) +
                                 " ms for the other ranks in " + work.description);
}

// Drops what has ended, in order; says whether nothing is left.
bool Communicator::forget_ended() {
  const std::lock_guard<std::mutex> lock(state_mutex_);
  while (!in_flight_.empty() && in_flight_.front()->has_ended()) in_flight_.pop_front();
  return in_flight_.empty();
}

Communicator::WorkPointer Communicator::oldest() {
  const std::lock_guard<std::mutex> lock(state_mutex_);
  return in_flight_.empty() ? nullptr : in_flight_.front();
}

std::string Communicator::doing() {
  const WorkPointer work = oldest();
  return work ? work->description : "no operation";
}

// ---- the end of everything ----

std::exception_ptr Communicator::error() const {
  const std::lock_guard<std::mutex> lock(state_mutex_);
  return error_;
}

void Communicator::throw_if_failed() const {
  if (const std::exception_ptr failed = error()) std::rethrow_exception(failed);
}

void Communicator::fail_with(const std::exception_ptr& failure) {
  fail(failure);
  std::rethrow_exception(error());  // the first one
}

void Communicator::fail(std::exception_ptr error) {
  {
    const std::lock_guard<std::mutex> lock(state_mutex_);
    if (error_) return;
    error_ = std::move(error);
    // Before the abort, after which the device passes their ends with whatever is in the tensors.
    for (const WorkPointer& work : in_flight_) {
      try {
        if (work->has_ended()) continue;
      } catch (const CudaError&) {  // the device is of no use any more
      }
      work->set_error(error_);
    }
    in_flight_.clear();
  }
  failed_ = true;
  abort_comm();
}

void Communicator::abort_comm() {
  std::unique_lock<std::mutex> lock(comm_mutex_, std::defer_lock);
  const std::int64_t deadline = now_ns() + kPatienceNs;
  while (!lock.try_lock() && now_ns() < deadline) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  const Comm comm = comm_.exchange(nullptr);
  if (comm == nullptr) return;
  const DeviceGuard guard(device_);
  library_.CommAbort(comm);
}

void Communicator::peer_failed(int peer, const std::string& operation, const std::string& cause, bool lost) {
  const std::string name = "rank " + std::to_string(peer), here = "; " + who() + " was in " + doing();
  if (lost) return fail(std::make_exception_ptr(PeerLostError(peer, name + " died (" + cause + ")" + here)));
  const std::string where = operation.empty() ? "" : " in " + operation;
  const std::string text = name + " failed" + where + ": " + cause + here;
  fail(std::make_exception_ptr(PeerFailedError(peer, operation, cause, text)));
}

void Communicator::peer_left(int peer) {
  const std::lock_guard<std::mutex> lock(state_mutex_);
  if (peer >= 0 && peer < static_cast<int>(left_ns_.size())) left_ns_[static_cast<std::size_t>(peer)] = now_ns();
}

}  // namespace pyparallel::nccl
