// The loops, on threads that begin together.
#include "memory/repetition.hpp"

#include <atomic>
#include <cstddef>
#include <exception>
#include <thread>
#include <vector>

namespace pyparallel::memory {
namespace {

// The blocks are touched, so that no compiler drops the pair and no kernel the page.
template <class Pair>
void on_threads(std::uint64_t pairs, int threads, const Pair& pair) {
  std::atomic<int> waiting{threads};
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(threads));
  const auto repeat = [&](int thread) {
    waiting.fetch_sub(1);
    while (waiting.load() > 0) std::this_thread::yield();
    try {
      for (std::uint64_t i = 0; i < pairs; ++i) pair();
    } catch (...) {
      errors[static_cast<std::size_t>(thread)] = std::current_exception();
    }
  };
  std::vector<std::thread> others;
  for (int thread = 1; thread < threads; ++thread) others.emplace_back(repeat, thread);
  repeat(0);
  for (std::thread& other : others) other.join();
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
}

void touch(void* data) { *static_cast<volatile char*>(data) = 1; }

}  // namespace

void repeat_allocations(Pool& pool, std::uint64_t num_bytes, std::uint64_t pairs, int threads) {
  on_threads(pairs, threads, [&] {
    void* const data = pool.allocate(num_bytes);
    touch(data);
    pool.free(data);
  });
}

void repeat_allocations(Convention convention, std::uintptr_t allocate, std::uintptr_t free, std::uint64_t num_bytes,
                        std::uint64_t pairs, int threads) {
  if (convention == Convention::kMalloc) {
    auto* const take = reinterpret_cast<void* (*)(std::size_t)>(allocate);
    auto* const give = reinterpret_cast<void (*)(void*)>(free);
    return on_threads(pairs, threads, [&] {
      void* const data = take(num_bytes);
      touch(data);
      give(data);
    });
  }
  auto* const take = reinterpret_cast<void* (*)(std::size_t, int, void*)>(allocate);
  auto* const give = reinterpret_cast<void (*)(void*, std::size_t, int, void*)>(free);
  on_threads(pairs, threads, [&] {
    void* const data = take(num_bytes, -1, nullptr);
    touch(data);
    give(data, num_bytes, -1, nullptr);
  });
}

}  // namespace pyparallel::memory
