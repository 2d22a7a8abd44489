// Events, and works that ask them. Nothing here synchronises.
#include "comm/nccl/work.hpp"

#include <utility>

#include "core/cuda_check.hpp"
#include "core/device_guard.hpp"
#include "core/outside_of_captures.hpp"

namespace pyparallel::nccl {
namespace {

// Whether the device has passed the event. A query is no error while it has not. Any thread may ask at any time, one
// that reads the flight record among them.
bool has_passed(cudaEvent_t event) {
  const OutsideOfCaptures anywhere;
  const cudaError_t code = cudaEventQuery(event);
  if (code == cudaErrorNotReady) return cudaGetLastError(), false;
  check_cuda(code, "cudaEventQuery");
  return true;
}

}  // namespace

EventPool::~EventPool() {
  for (cudaEvent_t event : free_) cudaEventDestroy(event);
}

EventPool::Event EventPool::take() {
  cudaEvent_t event = nullptr;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!free_.empty()) {
      event = free_.back();
      free_.pop_back();
    }
  }
  if (event == nullptr) {
    const DeviceGuard guard(device_);
    check_cuda(cudaEventCreate(&event), "cudaEventCreate");
  }
  return Event(event, [pool = shared_from_this()](cudaEvent_t used) {
    const std::lock_guard<std::mutex> lock(pool->mutex_);
    pool->free_.push_back(used);
  });
}

void Work::wait(cudaStream_t stream) const {
  if (const std::exception_ptr failed = error()) std::rethrow_exception(failed);
  const DeviceGuard guard(device_);
  check_cuda(cudaStreamWaitEvent(stream, end_.get(), 0), "cudaStreamWaitEvent");
}

bool Work::is_completed() const { return error() != nullptr || has_ended(); }

bool Work::has_started() const { return captured_ || has_passed(start_.get()); }

bool Work::has_ended() const {
  if (captured_) return true;
  if (!ended_.load(std::memory_order_acquire) && has_passed(end_.get())) ended_.store(true, std::memory_order_release);
  return ended_.load(std::memory_order_acquire);
}

std::exception_ptr Work::error() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return error_;
}

void Work::set_error(std::exception_ptr error) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!error_) error_ = std::move(error);
}

std::int64_t Work::time_of(const EventPool::Event& event) const {
  if (captured_ || !has_passed(epoch_->event.get()) || !has_passed(event.get())) return 0;
  float milliseconds = 0;
  check_cuda(cudaEventElapsedTime(&milliseconds, epoch_->event.get(), event.get()), "cudaEventElapsedTime");
  return epoch_->ns + static_cast<std::int64_t>(static_cast<double>(milliseconds) * 1e6);
}

}  // namespace pyparallel::nccl
