// The pool as other libraries see it: through a shared object's C symbols, with streams and captures; and as NumPy
// calls it.
#include "memory/torch_symbols.hpp"

#include <dlfcn.h>

#include <cstring>
#include <map>
#include <set>
#include <thread>

#include "check.hpp"
#include "core/error.hpp"
#include "memory/default_pools.hpp"
#include "memory/host_upstream.hpp"
#include "memory/numpy_handler.hpp"
#include "memory/simulated_upstream.hpp"

using namespace pyparallel;
using namespace pyparallel::memory;

namespace {

void* stream(std::uintptr_t handle) { return reinterpret_cast<void*>(handle); }

// ---- as torch does: another object, opened at run time, of which only the exported names are known

struct Library {
  void* const handle = dlopen(PP_SYMBOLS_LIBRARY, RTLD_NOW | RTLD_LOCAL);
  template <class Function>
  Function* find(const char* name) {
    void* const found = handle == nullptr ? nullptr : dlsym(handle, name);
    if (found == nullptr) std::cerr << dlerror() << "\n";
    CHECK_EQUAL(found != nullptr, true);
    return reinterpret_cast<Function*>(found);
  }
};

// What the other object throws is known here by its standard base alone.
template <class Call>
std::string message_of(const Call& call) {
  try {
    call();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "nothing was thrown";
}
bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

void symbols_of_a_shared_object(std::mt19937_64& random) {
  Library library;
  const auto allocate = library.find<decltype(pyparallel_torch_allocate)>("pyparallel_torch_allocate");
  const auto free = library.find<decltype(pyparallel_torch_free)>("pyparallel_torch_free");
  const auto base = library.find<decltype(pyparallel_torch_base_allocation)>("pyparallel_torch_base_allocation");
  const auto empty = library.find<decltype(pyparallel_torch_empty_cache)>("pyparallel_torch_empty_cache");
  const auto set_fraction =
      library.find<decltype(pyparallel_torch_set_memory_fraction)>("pyparallel_torch_set_memory_fraction");
  const auto record_stream = library.find<decltype(pyparallel_torch_record_stream)>("pyparallel_torch_record_stream");

  std::map<void*, std::pair<std::size_t, unsigned char>> live;
  for (int i = 0; i < 3'000; ++i) {
    if (live.empty() || random() % 2 == 0) {
      const std::size_t num_bytes = random() % (std::size_t{1} << (random() % 20));  // often 0
      void* const data = allocate(num_bytes, kHost, stream(random() % 3));
      CHECK_EQUAL(data != nullptr, true);
      CHECK_EQUAL(reinterpret_cast<std::uintptr_t>(data) % kAlignment, std::uintptr_t{0});
      const auto mark = static_cast<unsigned char>(random());
      CHECK_EQUAL(live.emplace(data, std::pair(num_bytes, mark)).second, true);  // no address twice
      std::memset(data, mark, num_bytes);
      std::size_t size = 0;
      auto* const begin = static_cast<char*>(base(data, &size));
      CHECK_EQUAL(begin <= data && begin + size >= static_cast<char*>(data) + num_bytes, true);
    } else {
      const auto victim = std::next(live.begin(), static_cast<long>(random() % live.size()));
      const auto [num_bytes, mark] = victim->second;
      for (std::size_t at = 0; at < num_bytes; at += 97)
        CHECK_EQUAL(static_cast<int>(static_cast<unsigned char*>(victim->first)[at]), static_cast<int>(mark));
      free(victim->first, num_bytes, kHost, nullptr);
      live.erase(victim);
    }
  }
  for (const auto& [data, given] : live) free(data, given.first, kHost, nullptr);
  free(nullptr, 0, kHost, nullptr);

  // What cannot be is thrown, and never a null pointer.
  CHECK_EQUAL(contains(message_of([&] { allocate(std::size_t{1} << 62, kHost, nullptr); }), "out of host memory"),
              true);
  CHECK_EQUAL(contains(message_of([&] { allocate(~std::size_t{0}, kHost, nullptr); }), "out of host memory"), true);
  // No machine of the tests has a sixth device.
  CHECK_EQUAL(contains(message_of([&] { allocate(1, 5, nullptr); }), PYPARALLEL_CUDA ? "cuda" : "has no CUDA"), true);
  CHECK_EQUAL(contains(message_of([&] { allocate(1, kMostDevices, nullptr); }), "no device 64"), true);
  CHECK_EQUAL(contains(message_of([&] { free(&library, 1, kHost, nullptr); }), "no live block"), true);
  CHECK_EQUAL(contains(message_of([&] { record_stream(&library, nullptr); }), "no live block"), true);
  CHECK_EQUAL(contains(message_of([&] { set_fraction(1.5, kHost); }), "1.5"), true);
  empty();
  set_fraction(0, kHost);
  CHECK_EQUAL(contains(message_of([&] { allocate(1, kHost, nullptr); }), "limit is 0"), true);
  set_fraction(1, kHost);
  free(allocate(1, kHost, nullptr), 1, kHost, nullptr);
}

// ---- streams

void a_recorded_stream_is_waited_for() {
  static StreamWorld world;  // a default pool lives as long as the process
  const auto pool = std::make_shared<Pool>(std::make_unique<SimulatedUpstream>(world, 64 << 20));
  set_default_pool(3, pool);
  CHECK_THROWS(set_default_pool(3, std::make_shared<Pool>(std::make_unique<HostUpstream>())), InvalidArgument);
  set_default_pool(3, pool);
  void* const block = pyparallel_torch_allocate(4096, 3, stream(1));
  world.wait(2, world.record(1));
  pyparallel_torch_record_stream(block, stream(2));
  world.touch(2, static_cast<char*>(block), 4096, "use on stream 2");
  pyparallel_torch_free(block, 4096, 3, stream(1));
  CHECK_EQUAL(pool->statistics().pending, std::uint64_t{4096});
  void* const other = pyparallel_torch_allocate(4096, 3, stream(1));
  world.touch(1, static_cast<char*>(other), 4096, "use of the next block");
  CHECK_EQUAL(other != block, true);
  world.finish_stream(2);
  pyparallel_torch_free(other, 4096, 3, stream(1));
  pyparallel_torch_empty_cache();
  CHECK_EQUAL(pool->statistics().reserved, std::uint64_t{0});
}

void a_shared_block_needs_no_other_order() {
  StreamWorld world;
  Pool pool(std::make_unique<SimulatedUpstream>(world, 64 << 20));
  auto* const block = static_cast<char*>(pool.allocate(2 << 20, 1));
  world.touch(1, block, 2 << 20, "the producer's write");
  pool.share(block, 2);
  world.touch(2, block, 2 << 20, "the consumer's read");
  pool.share(block, 1);  // its own
  pool.free(block);
  auto* const next = static_cast<char*>(pool.allocate(2 << 20, 1));
  world.touch(1, next, 2 << 20, "the next producer's write");
  CHECK_THROWS(pool.share(&world, 2), InvalidArgument);
}

// ---- CUDA graphs

void a_capture_has_memory_of_its_own() {
  const TorchPoolId id = {0, 7}, other = {0, 8};
  const auto on_stream_7 = [](void* candidate) { return candidate == stream(7); };
  torch_begin_allocate_to_pool(kHost, id, on_stream_7);
  void* const inside = pyparallel_torch_allocate(1000, kHost, stream(7));
  void* const beside = pyparallel_torch_allocate(1000, kHost, stream(6));
  CHECK_EQUAL(default_pool(kHost).num_bytes(inside), std::uint64_t{0});
  CHECK_EQUAL(default_pool(kHost).num_bytes(beside), std::uint64_t{1024});
  pyparallel_torch_free(inside, 1000, kHost, stream(7));
  pyparallel_torch_free(beside, 1000, kHost, stream(6));
  torch_end_allocate_to_pool(kHost, id);
  CHECK_THROWS(torch_end_allocate_to_pool(kHost, id), InvalidArgument);

  // The graph still writes there when it is replayed: nobody else gets that memory.
  pyparallel_torch_empty_cache();
  std::set<void*> ordinary;
  for (int i = 0; i < 100; ++i) ordinary.insert(pyparallel_torch_allocate(1000, kHost, stream(7)));
  CHECK_EQUAL(ordinary.count(inside), std::size_t{0});
  for (void* const data : ordinary) pyparallel_torch_free(data, 1000, kHost, stream(7));

  // A second graph of the same id shares it; both must be gone.
  torch_begin_allocate_to_pool(kHost, id, on_stream_7);
  void* const kept = pyparallel_torch_allocate(1000, kHost, stream(7));
  CHECK_EQUAL(kept, inside);
  torch_end_allocate_to_pool(kHost, id);
  torch_release_pool(kHost, id);
  torch_release_pool(kHost, id);
  CHECK_THROWS(torch_release_pool(kHost, id), InvalidArgument);
  std::memset(kept, 1, 1000);  // a result that outlives its graph
  std::size_t size = 0;
  CHECK_EQUAL(pyparallel_torch_base_allocation(kept, &size) != nullptr && size >= 1000, true);
  pyparallel_torch_free(kept, 1000, kHost, stream(7));
  CHECK_THROWS(pyparallel_torch_free(kept, 1000, kHost, stream(7)), InvalidArgument);
  torch_begin_allocate_to_pool(kHost, other, on_stream_7);
  CHECK_EQUAL(pyparallel_torch_allocate(1000, kHost, stream(7)), inside);  // the next id inherits what is left
  pyparallel_torch_free(inside, 1000, kHost, stream(7));
  torch_end_allocate_to_pool(kHost, other);
  torch_release_pool(kHost, other);
}

// A plan of the default pool serves the symbols; a capture has its own memory all the same, and disturbs no step.
void steps_are_served_through_the_symbols() {
  PlannedPlacement& plan = default_pool(kHost).plan_steps(3);
  const TorchPoolId id = {0, 9};
  for (int i = 0; i < 5; ++i) {
    plan.begin_step();
    void* const block = pyparallel_torch_allocate(3000, kHost, stream(7));
    std::memset(block, 1, 3000);
    torch_begin_allocate_to_pool(kHost, id, [](void* candidate) { return candidate == stream(7); });
    void* const inside = pyparallel_torch_allocate(3000, kHost, stream(7));
    torch_end_allocate_to_pool(kHost, id);
    CHECK_EQUAL(default_pool(kHost).num_bytes(inside), std::uint64_t{0});
    CHECK_EQUAL(default_pool(kHost).num_bytes(block), std::uint64_t{3072});
    std::size_t size = 0;
    auto* const begin = static_cast<char*>(pyparallel_torch_base_allocation(block, &size));
    CHECK_EQUAL(begin <= block && static_cast<char*>(block) + 3000 <= begin + size, true);
    if (i == 4) pyparallel_torch_record_stream(block, stream(6));  // of which the plan knows nothing
    pyparallel_torch_empty_cache();                                // what lives stays
    std::memset(block, 2, 3000);
    pyparallel_torch_free(block, 3000, kHost, stream(7));
    CHECK_THROWS(pyparallel_torch_free(block, 3000, kHost, stream(7)), InvalidArgument);
    pyparallel_torch_free(inside, 3000, kHost, stream(7));
    pyparallel_torch_free(pyparallel_torch_allocate(0, kHost, stream(7)), 0, kHost, stream(7));
    plan.end_step();
    torch_release_pool(kHost, id);
  }
  CHECK_EQUAL(plan.statistics().divergences, std::uint64_t{0});
  CHECK_EQUAL(plan.statistics().planned_requests > 0, true);
}

void threads_allocate_beside_captures(std::mt19937_64& random) {
  std::vector<std::thread> threads;
  for (std::uintptr_t t = 1; t <= 3; ++t)
    threads.emplace_back([t, seed = random()] {
      std::mt19937_64 own(seed);
      std::vector<std::pair<void*, std::size_t>> live;
      for (unsigned long long i = 0; i < 300; ++i) {
        const TorchPoolId id = {t, i};
        const bool captures = own() % 4 == 0;
        if (captures) torch_begin_allocate_to_pool(kHost, id, [t](void* candidate) { return candidate == stream(t); });
        const std::size_t num_bytes = own() % 5000;
        live.emplace_back(pyparallel_torch_allocate(num_bytes, kHost, stream(t)), num_bytes);
        std::memset(live.back().first, static_cast<int>(t), num_bytes);
        if (captures) torch_end_allocate_to_pool(kHost, id), torch_release_pool(kHost, id);
        if (own() % 3 != 0) {
          std::swap(live[own() % live.size()], live.back());
          const auto [data, size] = live.back();
          for (std::size_t at = 0; at < size; at += 64)
            CHECK_EQUAL(static_cast<std::uintptr_t>(static_cast<char*>(data)[at]), t);
          pyparallel_torch_free(data, size, kHost, stream(t));
          live.pop_back();
        }
      }
      for (const auto& [data, size] : live) pyparallel_torch_free(data, size, kHost, stream(t));
    });
  for (std::thread& thread : threads) thread.join();
  CHECK_EQUAL(default_pool(kHost).live(), std::uint64_t{0});
}

// ---- torch.cuda.MemPool

void segments_come_from_their_pool_or_not_at_all() {
  const auto one = std::make_shared<Pool>(std::make_unique<HostUpstream>(), 4 << 20);
  const auto two = std::make_shared<Pool>(std::make_unique<HostUpstream>());
  const SegmentFunctions of_one = segment_functions(one), of_two = segment_functions(two);
  CHECK_EQUAL(of_one.allocate == segment_functions(one).allocate, true);
  void* const a = of_one.allocate(1 << 20, 0, nullptr);
  void* const b = of_two.allocate(8 << 20, 0, nullptr);
  CHECK_EQUAL(one->live(), std::uint64_t{1 << 20});
  CHECK_EQUAL(two->live(), std::uint64_t{8 << 20});
  CHECK_EQUAL(of_one.allocate(8 << 20, 0, nullptr), static_cast<void*>(nullptr));  // torch looks, and tries again
  CHECK_THROWS(of_one.free(b, 8 << 20, 0, nullptr), InvalidArgument);
  of_one.free(a, 1 << 20, 0, nullptr);
  of_two.free(b, 8 << 20, 0, nullptr);
  of_two.free(nullptr, 0, 0, nullptr);
  static StreamWorld world;
  const auto many = [] {
    for (int i = 0; i < kMostTorchPools; ++i)
      segment_functions(std::make_shared<Pool>(std::make_unique<SimulatedUpstream>(world, 0)));
  };
  CHECK_EQUAL(contains(message_of(many), "64 pools"), true);
}

// ---- NumPy

void numpy_functions_are_the_c_librarys(std::mt19937_64& random) {
  const auto pool = std::make_shared<Pool>(std::make_unique<HostUpstream>(), 64 << 20);
  NumpyHandler* const numpy = make_numpy_handler(pool).release();
  std::vector<std::pair<unsigned char*, std::vector<unsigned char>>> live;  // each with what it must hold
  for (int i = 0; i < 2'000; ++i) {
    const std::size_t num_bytes = random() % (std::size_t{1} << (random() % 18));
    const auto choice = random() % 4;
    if (choice == 0 || live.empty()) {
      auto* const data = static_cast<unsigned char*>(numpy->malloc(numpy->context, num_bytes));
      for (std::size_t at = 0; at < num_bytes; ++at) data[at] = static_cast<unsigned char>(at * 7 + num_bytes);
      live.emplace_back(data, std::vector(data, data + num_bytes));
    } else if (choice == 1) {
      auto* const data = static_cast<unsigned char*>(numpy->calloc(numpy->context, num_bytes, 1));
      live.emplace_back(data, std::vector<unsigned char>(num_bytes));
    } else {
      std::swap(live[random() % live.size()], live.back());
      auto& [data, held] = live.back();
      if (choice == 2) {
        data = static_cast<unsigned char*>(numpy->realloc(numpy->context, data, num_bytes));
        held.resize(std::min(held.size(), num_bytes));
      }
      CHECK_EQUAL(std::equal(held.begin(), held.end(), data), true);
      CHECK_EQUAL(reinterpret_cast<std::uintptr_t>(data) % kAlignment, std::uintptr_t{0});
      if (choice == 3) {
        numpy->free(numpy->context, data, held.size());
        live.pop_back();
      }
    }
  }
  CHECK_EQUAL(numpy->malloc(numpy->context, 1 << 30), static_cast<void*>(nullptr));
  CHECK_EQUAL(numpy->calloc(numpy->context, std::size_t{1} << 40, std::size_t{1} << 40), static_cast<void*>(nullptr));
  unsigned char* const first = live.front().first;
  CHECK_EQUAL(numpy->realloc(numpy->context, first, 1 << 30), static_cast<void*>(nullptr));
  const auto& held = live.front().second;  // a realloc that fails leaves the block as it was
  CHECK_EQUAL(std::equal(held.begin(), held.end(), first), true);
  for (const auto& [data, bytes] : live) numpy->free(numpy->context, data, bytes.size());
  numpy->free(numpy->context, numpy->realloc(numpy->context, nullptr, 10), 10);
  numpy->free(numpy->context, nullptr, 0);
  CHECK_EQUAL(pool->live(), std::uint64_t{0});
  CHECK_EQUAL(pool.use_count(), 2L);
  destroy_numpy_handler(numpy);
  CHECK_EQUAL(pool.use_count(), 1L);
}

}  // namespace

int main() {
  std::mt19937_64 random = fresh_random();
  symbols_of_a_shared_object(random);
  a_recorded_stream_is_waited_for();
  a_shared_block_needs_no_other_order();
  if (!PYPARALLEL_CUDA) {  // where captures have the host's memory, not the device's
    a_capture_has_memory_of_its_own();
    steps_are_served_through_the_symbols();
    threads_allocate_beside_captures(random);
  }
  segments_come_from_their_pool_or_not_at_all();
  numpy_functions_are_the_c_librarys(random);
}
