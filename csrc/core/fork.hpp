// Whether this process is the one that made an object, or a forked child of it.
#pragma once
#include <atomic>
#include <cstdint>

namespace pyparallel {

extern std::atomic<std::uint64_t> forks_so_far;  // fork.cpp counts

// How many forks lie between the program's start and this process. One load: asked on every call of an object.
inline std::uint64_t fork_depth() { return forks_so_far.load(std::memory_order_relaxed); }

}  // namespace pyparallel
