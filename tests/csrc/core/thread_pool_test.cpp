// parallel_for: every task runs once, from several callers at a time, and in a forked child.
#include "core/thread_pool.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>
#include <vector>

#include "check.hpp"

using pyparallel::parallel_for;

namespace {

void runs_every_task_once(std::int64_t tasks, int threads) {
  std::vector<std::atomic<int>> runs(static_cast<std::size_t>(tasks));
  parallel_for(tasks, threads, [&](std::int64_t task) { runs[static_cast<std::size_t>(task)].fetch_add(1); });
  for (auto& count : runs) CHECK_EQUAL(count.load(), 1);
}

void results_are_visible_to_the_caller() {
  for (int round = 0; round < 200; ++round) {
    std::vector<std::int64_t> values(64);
    parallel_for(64, 3, [&](std::int64_t task) { values[static_cast<std::size_t>(task)] = task * round; });
    for (std::int64_t task = 0; task < 64; ++task) CHECK_EQUAL(values[static_cast<std::size_t>(task)], task * round);
  }
}

void callers_take_turns() {
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller)
    callers.emplace_back([] {
      for (int round = 0; round < 50; ++round) runs_every_task_once(17, 3);
    });
  for (std::thread& caller : callers) caller.join();
}

#if !defined(__SANITIZE_THREAD__)
void works_in_a_forked_child() {
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);
    runs_every_task_once(100, 3);
    _exit(0);
  }
  int status;
  waitpid(child, &status, 0);
  CHECK_EQUAL(status, 0);
}
#endif

}  // namespace

int main() {
  for (std::int64_t tasks : {0, 1, 2, 1000})
    for (int threads : {1, 2, 5}) runs_every_task_once(tasks, threads);
  results_are_visible_to_the_caller();
  callers_take_turns();
#if !defined(__SANITIZE_THREAD__)
  works_in_a_forked_child();
#endif
}
