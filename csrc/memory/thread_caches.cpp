// Thread-local caches that say when their thread ends, and outlive it until their pool has looked.
#include "memory/thread_caches.hpp"

#include <algorithm>
#include <utility>
#include <vector>

namespace pyparallel::memory {
namespace {

// Without a destructor, so that it can be looked at while the thread's other objects are destroyed: a tensor kept in
// one of them may be the last to free something.
struct Recent {
  std::uint64_t pool = 0;
  ThreadCache* cache = nullptr;
  bool ending = false;
};
constinit thread_local Recent recent;

struct Caches {
  std::vector<std::pair<std::uint64_t, std::shared_ptr<ThreadCache>>> all;
  ~Caches() {
    recent = {0, nullptr, true};
    for (const auto& [pool, cache] : all) cache->end();
  }
};
thread_local Caches caches;

}  // namespace

ThreadCache* cache_of_thread(std::uint64_t pool) {
  if (recent.pool == pool) return recent.cache;
  if (recent.ending) return nullptr;
  for (const auto& [number, cache] : caches.all)
    if (number == pool) {
      recent.pool = pool, recent.cache = cache.get();
      return recent.cache;
    }
  return nullptr;
}

bool add_cache_of_thread(std::uint64_t pool, std::shared_ptr<ThreadCache> cache) {
  if (recent.ending) return false;
  std::erase_if(caches.all, [](const auto& entry) { return entry.second.use_count() == 1; });  // their pool is gone
  caches.all.emplace_back(pool, std::move(cache));
  return true;
}

}  // namespace pyparallel::memory
