// Pools for CUDA graphs: what a graph's capture allocates stays apart from all else for as long as the graph lives.
#pragma once
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "memory/pool.hpp"

namespace pyparallel::memory {

class PrivatePools {
 public:
  using Id = std::pair<unsigned long long, unsigned long long>;
  using Filter = std::function<bool(void*)>;  // whether a stream takes part

  void begin(int device, Id id, Filter filter);
  void end(int device, Id id);
  void release(int device, Id id);

  // The pool to allocate from for that stream, or nullptr: the ordinary one. A single load while nothing is captured.
  std::shared_ptr<Pool> of_stream(int device, void* stream) {
    return routes_in_use_.load(std::memory_order_acquire) == 0 ? nullptr : routed(device, stream);
  }
  // The pool that a block is from, or nullptr: the ordinary one. A single load while no graph lives.
  std::shared_ptr<Pool> of_block(const void* data) {
    return entries_in_use_.load(std::memory_order_acquire) == 0 ? nullptr : owner(data);
  }
  // After a free: memory of graphs that are gone goes back to the device once nothing of it is live, and none is
  // captured.
  void retire();

 private:
  struct Entry {
    std::shared_ptr<Pool> pool;
    int uses;
  };
  struct Route {
    int device;
    Id id;
    Filter filter;
    std::shared_ptr<Pool> pool;
  };
  using Key = std::pair<int, Id>;

  bool is_routed(int device) const;
  std::shared_ptr<Pool> routed(int device, void* stream);
  std::shared_ptr<Pool> owner(const void* data);
  void retire_locked(std::vector<std::shared_ptr<Pool>>& retired);

  std::atomic<int> routes_in_use_{0}, entries_in_use_{0};
  std::mutex mutex_;  // guards all below
  std::vector<Route> routes_;
  std::map<Key, Entry> entries_;
};

}  // namespace pyparallel::memory
