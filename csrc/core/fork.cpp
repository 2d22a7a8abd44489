// Counted by the child itself, as fork() returns there: a process id would cost a system call each time.
#include "core/fork.hpp"

#include <pthread.h>

#include <atomic>

namespace pyparallel {
namespace {

std::atomic<std::uint64_t> depth{0};

[[maybe_unused]] const int installed =
    pthread_atfork(nullptr, nullptr, [] { depth.fetch_add(1, std::memory_order_relaxed); });

}  // namespace

std::uint64_t fork_depth() { return depth.load(std::memory_order_relaxed); }

}  // namespace pyparallel
