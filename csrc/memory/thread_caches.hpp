// The caches of the calling thread, one per pool.
#pragma once
#include <cstdint>

#include "memory/thread_cache.hpp"

namespace pyparallel::memory {

// Of the pool with that number; nullptr if the thread has none yet, or is about to end.
ThreadCache* cache_of_thread(std::uint64_t pool);
// False if the thread is about to end: it gets no cache any more.
bool add_cache_of_thread(std::uint64_t pool, std::shared_ptr<ThreadCache> cache);

}  // namespace pyparallel::memory
