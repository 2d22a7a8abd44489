// Threads for the CPU kernels: torch's own if it is there, else a small persistent pool, asleep when idle, safe across
// fork.
#pragma once
#include <cstdint>

namespace pyparallel {

// Calls body(context, task) once for every task in [0, tasks), on at most `threads` threads including the caller, and
// returns when all are done. Tasks are handed out in order, one at a time, so a slow core takes fewer. The body must
// not throw and must not call parallel_for. Concurrent callers take turns; a caller that finds the pool busy runs
// alone.
void parallel_for(std::int64_t tasks, int threads, void (*body)(void* context, std::int64_t task), void* context);

template <typename Body>
void parallel_for(std::int64_t tasks, int threads, const Body& body) {
  parallel_for(
      tasks, threads, [](void* context, std::int64_t task) { (*static_cast<const Body*>(context))(task); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace pyparallel
