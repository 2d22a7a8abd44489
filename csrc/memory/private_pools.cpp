// Each id has a pool with segments of its own, which ends when its graphs are gone and its blocks freed.
#include "memory/private_pools.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "memory/default_pools.hpp"

namespace pyparallel::memory {

void PrivatePools::begin(int device, Id id, Filter filter) {
  const std::lock_guard<std::mutex> lock(mutex_);
  auto found = entries_.find({device, id});
  if (found == entries_.end()) {
    auto pool = std::make_shared<Pool>(device_upstream(device), Pool::kUnlimited, Keep::kAlways);
    found = entries_.emplace(Key{device, id}, Entry{std::move(pool), 0}).first;
    entries_in_use_.fetch_add(1, std::memory_order_release);
  }
  ++found->second.uses;
  routes_.push_back({device, id, std::move(filter), found->second.pool});
  routes_in_use_.fetch_add(1, std::memory_order_release);
}

void PrivatePools::end(int device, Id id) {
  std::vector<std::shared_ptr<Pool>> retired;  // pools end, and wait for their device, without the lock
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto route = std::find_if(routes_.begin(), routes_.end(), [&](const Route& candidate) {
    return candidate.device == device && candidate.id == id;
  });
  if (route == routes_.end()) throw InvalidArgument("end: nothing is allocated to that private pool");
  routes_.erase(route);
  routes_in_use_.fetch_sub(1, std::memory_order_release);
  retire_locked(retired);
}

void PrivatePools::release(int device, Id id) {
  std::vector<std::shared_ptr<Pool>> retired;  // pools end, and wait for their device, without the lock
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = entries_.find({device, id});
  if (found == entries_.end() || found->second.uses == 0)
    throw InvalidArgument("release: that private pool was released as often as it was begun");
  --found->second.uses;
  retire_locked(retired);
}

void PrivatePools::retire() {
  if (entries_in_use_.load(std::memory_order_acquire) == 0) return;
  std::vector<std::shared_ptr<Pool>> retired;
  const std::lock_guard<std::mutex> lock(mutex_);
  retire_locked(retired);
}

// While a graph is captured on the device, a pool that ends could not wait for it, and would cost the capture.
void PrivatePools::retire_locked(std::vector<std::shared_ptr<Pool>>& retired) {
  std::erase_if(entries_, [&](auto& entry) {
    if (entry.second.uses > 0 || entry.second.pool->live() > 0 || is_routed(entry.first.first)) return false;
    retired.push_back(std::move(entry.second.pool));
    entries_in_use_.fetch_sub(1, std::memory_order_release);
    return true;
  });
}

bool PrivatePools::is_routed(int device) const {
  return std::any_of(routes_.begin(), routes_.end(), [&](const Route& route) { return route.device == device; });
}

std::shared_ptr<Pool> PrivatePools::routed(int device, void* stream) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const Route& route : routes_)
    if (route.device == device && route.filter(stream)) return route.pool;
  return nullptr;
}

std::shared_ptr<Pool> PrivatePools::owner(const void* data) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& [key, entry] : entries_)
    if (entry.pool->num_bytes(data) > 0) return entry.pool;
  return nullptr;
}

}  // namespace pyparallel::memory
