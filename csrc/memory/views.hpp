// How many tensors of other libraries view a block: such a block cannot be freed.
#pragma once
#include <atomic>
#include <mutex>
#include <unordered_map>

namespace pyparallel::memory {

// Of all pools: the addresses of live blocks differ.
class Views {
 public:
  static Views& of_process();

  void add(const void* data);
  void drop(const void* data) noexcept;
  // A single load while nothing is viewed.
  int count(const void* data);

 private:
  std::atomic<int> all_{0};
  std::mutex mutex_;
  std::unordered_map<const void*, int> counts_;  // guarded by mutex_
};

}  // namespace pyparallel::memory
