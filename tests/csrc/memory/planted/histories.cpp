// Random histories on a pool with a planted fault: prints the smallest history that shows it.
#include <iostream>

#include "check.hpp"
#include "memory/pool.hpp"
#include "memory/shrink.hpp"

int main() {
  std::mt19937_64 random = fresh_random();
  constexpr std::uint64_t kMiB = 1 << 20;
  for (int i = 0; i < 3000; ++i) {
    const Setting setting = {i % 2 ? 24 * kMiB : 1024 * kMiB, i % 4 < 2};
    const std::vector<Step> history = random_history(random, 400, 6 * kMiB);
    if (outcome_of<pyparallel::memory::Pool>(history, setting).fault.empty()) continue;
    std::cout << report_of<pyparallel::memory::Pool>(history, setting);
    return 0;
  }
  std::cout << "nothing found\n";
}
