// A table of pools by device; finding one that exists is a single load.
#include "memory/default_pools.hpp"

#include <unistd.h>

#include <array>

#include "core/error.hpp"
#include "core/per_process.hpp"
#include "memory/upstreams.hpp"
#if PYPARALLEL_CUDA
#include "core/device_guard.hpp"
#endif

namespace pyparallel::memory {
namespace {

struct Table {
  static constexpr std::size_t kPlaces = kMostDevices - kPinned;
  std::array<std::atomic<Pool*>, kPlaces> pools{};  // by device, from kPinned on
  std::mutex mutex;                                 // guards `owned`
  std::array<std::shared_ptr<Pool>, kPlaces> owned;
};

// Tensors and arrays may be freed while the process ends.
constinit PerProcess<Table> tables;
Table& table() { return tables.get(); }

std::size_t checked_place(int device) {
  if (device < kPinned || device >= kMostDevices)
    throw InvalidArgument("memory: there is no device " + std::to_string(device) +
                          ", only -1 (the host), -2 (its shared memory), -3 (its pinned memory) and 0 to " +
                          std::to_string(kMostDevices - 1));
  return static_cast<std::size_t>(device - kPinned);
}

#if !PYPARALLEL_CUDA
[[noreturn]] void no_cuda(int device) {
  throw InvalidArgument((device == kPinned ? "pinned memory" : "memory of CUDA device " + std::to_string(device)) +
                        ": this build of pyparallel has no CUDA (see pyparallel.features()): build it with nvcc");
}
#endif

}  // namespace

std::unique_ptr<Upstream> device_upstream(int device) {
  if (device == kHost) return make_upstream("host", 0);
  if (device == kShared) return make_upstream("shared", 0);
#if PYPARALLEL_CUDA
  return device == kPinned ? make_upstream("pinned", 0) : make_upstream("cuda-vmm", device);
#else
  no_cuda(device);
#endif
}

std::uint64_t device_memory(int device) {
  if (device < 0)
    return static_cast<std::uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
#if PYPARALLEL_CUDA
  const DeviceGuard guard(device);
  std::size_t available = 0, total = 0;
  check_cuda(cudaMemGetInfo(&available, &total), "cudaMemGetInfo");
  return total;
#else
  no_cuda(device);
#endif
}

Pool& default_pool(int device) {
  const std::size_t place = checked_place(device);
  if (Pool* const pool = table().pools[place].load(std::memory_order_acquire)) return *pool;
  return *shared_default_pool(device);
}

std::shared_ptr<Pool> shared_default_pool(int device) {
  const std::size_t place = checked_place(device);
  Table& all = table();
  std::lock_guard<std::mutex> lock(all.mutex);
  if (all.owned[place] == nullptr) {
    all.owned[place] = std::make_shared<Pool>(device_upstream(device));
    all.pools[place].store(all.owned[place].get(), std::memory_order_release);
  }
  return all.owned[place];
}

void set_default_pool(int device, std::shared_ptr<Pool> pool) {
  const std::size_t place = checked_place(device);
  Table& all = table();
  std::lock_guard<std::mutex> lock(all.mutex);
  if (all.owned[place] == pool) return;
  if (all.owned[place] != nullptr)
    throw InvalidArgument("device " + std::to_string(device) +
                          " has a default pool already, with live blocks perhaps: give yours before its first use");
  all.owned[place] = std::move(pool);
  all.pools[place].store(all.owned[place].get(), std::memory_order_release);
}

bool default_pools_inherited() { return tables.inherited(); }

void for_each_default_pool(const std::function<void(int, Pool&)>& visit) {
  for (int device = kPinned; device < kMostDevices; ++device)
    if (Pool* const pool = table().pools[static_cast<std::size_t>(device - kPinned)].load(std::memory_order_acquire))
      visit(device, *pool);
}

}  // namespace pyparallel::memory
