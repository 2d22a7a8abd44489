// Counted by the child itself, as fork() returns there: a process id would cost a system call each time.
#include "core/fork.hpp"

#include <pthread.h>

namespace pyparallel {

constinit std::atomic<std::uint64_t> forks_so_far{0};

namespace {

[[maybe_unused]] const int installed =
    pthread_atfork(nullptr, nullptr, [] { forks_so_far.fetch_add(1, std::memory_order_relaxed); });

}  // namespace

}  // namespace pyparallel
