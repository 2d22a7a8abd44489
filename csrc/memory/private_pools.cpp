// Each id has a pool with segments of its own; when its graphs are gone and its blocks freed, the next id inherits it.
#include "memory/private_pools.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "memory/default_pools.hpp"

namespace pyparallel::memory {

void PrivatePools::begin(int device, Id id, Filter filter) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto found = entries_.find({device, id});
  if (found == entries_.end()) {
    const auto idle = idle_.find(device);
    std::shared_ptr<Pool> pool;
    if (idle != idle_.end()) {
      pool = std::move(idle->second);
      idle_.erase(idle);
    } else {
      pool = std::make_shared<Pool>(device_upstream(device));
    }
    found = entries_.emplace(Key{device, id}, Entry{std::move(pool), 0}).first;
    entries_in_use_.fetch_add(1, std::memory_order_release);
  }
  ++found->second.uses;
  routes_.push_back({device, id, std::move(filter), found->second.pool.get()});
  routes_in_use_.fetch_add(1, std::memory_order_release);
}

void PrivatePools::end(int device, Id id) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto route = std::find_if(routes_.begin(), routes_.end(), [&](const Route& candidate) {
    return candidate.device == device && candidate.id == id;
  });
  if (route == routes_.end()) throw InvalidArgument("end: nothing is allocated to that private pool");
  routes_.erase(route);
  routes_in_use_.fetch_sub(1, std::memory_order_release);
}

void PrivatePools::release(int device, Id id) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto found = entries_.find({device, id});
  if (found == entries_.end() || found->second.uses == 0)
    throw InvalidArgument("release: that private pool was released as often as it was begun");
  --found->second.uses;
  retire_locked();
}

void PrivatePools::retire() {
  if (entries_in_use_.load(std::memory_order_acquire) == 0) return;
  std::lock_guard<std::mutex> lock(mutex_);
  retire_locked();
}

void PrivatePools::retire_locked() {
  for (auto entry = entries_.begin(); entry != entries_.end();) {
    if (entry->second.uses > 0 || entry->second.pool->live() > 0) {
      ++entry;
      continue;
    }
    entry->second.pool->trim();
    idle_.emplace(entry->first.first, std::move(entry->second.pool));
    entry = entries_.erase(entry);
    entries_in_use_.fetch_sub(1, std::memory_order_release);
  }
}

void PrivatePools::trim() {
  std::lock_guard<std::mutex> lock(mutex_);
  for (auto& [key, entry] : entries_)
    if (entry.uses == 0) entry.pool->trim();  // a graph that lives reads its free blocks too
}

Pool* PrivatePools::routed(int device, void* stream) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (const Route& route : routes_)
    if (route.device == device && route.filter(stream)) return route.pool;
  return nullptr;
}

Pool* PrivatePools::owner(const void* data) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& [key, entry] : entries_)
    if (entry.pool->num_bytes(data) > 0) return entry.pool.get();
  return nullptr;
}

}  // namespace pyparallel::memory
