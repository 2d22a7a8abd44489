// A table of counts.
#include "memory/views.hpp"

#include "core/per_process.hpp"

namespace pyparallel::memory {

Views& Views::of_process() {
  static constinit PerProcess<Views> views;
  return views.get();
}

void Views::add(const void* data) {
  std::lock_guard<std::mutex> lock(mutex_);
  ++counts_[data];
  all_.fetch_add(1, std::memory_order_release);
}

void Views::drop(const void* data) noexcept {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto found = counts_.find(data);
  if (found == counts_.end()) return;  // a view that the parent of this process made
  if (--found->second == 0) counts_.erase(found);
  all_.fetch_sub(1, std::memory_order_release);
}

int Views::count(const void* data) {
  if (all_.load(std::memory_order_acquire) == 0) return 0;
  std::lock_guard<std::mutex> lock(mutex_);
  const auto found = counts_.find(data);
  return found == counts_.end() ? 0 : found->second;
}

}  // namespace pyparallel::memory
