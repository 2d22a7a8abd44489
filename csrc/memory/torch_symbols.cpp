// Torch's calls, each handed to the pool that is meant.
#include "memory/torch_symbols.hpp"

#include <array>
#include <sstream>

#include "core/error.hpp"
#include "core/per_process.hpp"
#include "memory/default_pools.hpp"
#include "memory/private_pools.hpp"

namespace pyparallel::memory {
namespace {

Stream stream_of(void* stream) { return reinterpret_cast<Stream>(stream); }

PrivatePools& private_pools() {
  static constinit PerProcess<PrivatePools> pools;
  return pools.get();
}

// The pool in which a live block begins, wherever that is: hooks of torch do not name the device. Throws
// InvalidArgument if there is none.
std::shared_ptr<Pool> owner(const void* data, const char* what) {
  if (auto pool = private_pools().of_block(data)) return pool;
  std::shared_ptr<Pool> result;
  for_each_default_pool([&](int device, Pool& pool) {
    if (!result && pool.num_bytes(data) > 0) result = shared_default_pool(device);
  });
  if (result) return result;
  std::ostringstream message;
  message << what << ": " << data << " is no live block of any default pool";
  throw InvalidArgument(message.str());
}

// ---- pools with functions of their own: a C function has no argument that could name its pool, so that each has a
// slot

struct Slots {
  std::array<Pool*, kMostTorchPools> pools{};  // written once, before anyone has the slot's functions
  std::mutex mutex;                            // guards `owned`
  std::vector<std::shared_ptr<Pool>> owned;
};

Slots& slots() {
  static Slots& forever = *new Slots;
  return forever;
}

template <std::size_t slot>
void* allocate_segment(std::size_t num_bytes, int, void* stream) {
  try {
    return slots().pools[slot]->allocate(num_bytes, stream_of(stream));
  } catch (const OutOfMemoryError&) {
    return nullptr;
  }
}

template <std::size_t slot>
void free_segment(void* data, std::size_t, int, void*) {
  Pool& pool = *slots().pools[slot];
  if (data != nullptr && !pool.forked()) pool.free(data);
}

template <std::size_t... slot>
constexpr std::array<SegmentFunctions, sizeof...(slot)> functions_of(std::index_sequence<slot...>) {
  return {{{allocate_segment<slot>, free_segment<slot>}...}};
}
constexpr auto kFunctions = functions_of(std::make_index_sequence<kMostTorchPools>());

}  // namespace

SegmentFunctions segment_functions(std::shared_ptr<Pool> pool) {
  Slots& all = slots();
  std::lock_guard<std::mutex> lock(all.mutex);
  for (std::size_t slot = 0; slot < all.owned.size(); ++slot)
    if (all.owned[slot] == pool) return kFunctions[slot];
  const std::size_t slot = all.owned.size();
  if (slot == kMostTorchPools)
    throw InvalidArgument("torch: " + std::to_string(kMostTorchPools) + " pools are in use by torch, no more can be");
  all.pools[slot] = pool.get();
  all.owned.push_back(std::move(pool));
  return kFunctions[slot];
}

void torch_begin_allocate_to_pool(int device, TorchPoolId id, std::function<bool(void*)> filter) {
  private_pools().begin(device, id, std::move(filter));
}
void torch_end_allocate_to_pool(int device, TorchPoolId id) { private_pools().end(device, id); }
void torch_release_pool(int device, TorchPoolId id) { private_pools().release(device, id); }

}  // namespace pyparallel::memory

using namespace pyparallel::memory;

extern "C" {

void* pyparallel_torch_allocate(std::size_t num_bytes, int device, void* stream) {
  if (const auto captured = private_pools().of_stream(device, stream))
    return captured->allocate(num_bytes, stream_of(stream));
  return default_pool(device).allocate(num_bytes, stream_of(stream));
}

void pyparallel_torch_free(void* data, std::size_t, int device, void*) {
  if (data == nullptr) return;
  if (const auto captured = private_pools().of_block(data)) {
    captured->free(data);
    return private_pools().retire();
  }
  Pool& pool = default_pool(device);
  if (default_pools_inherited() && pool.num_bytes(data) == 0) return;  // the parent's: its copy here is nobody's
  pool.free(data);
}

void pyparallel_torch_record_stream(void* data, void* stream) {
  owner(data, "record_stream")->use(data, stream_of(stream));
}

void pyparallel_torch_empty_cache() {
  for_each_default_pool([](int, Pool& pool) { pool.trim(); });
}

void pyparallel_torch_set_memory_fraction(double fraction, int device) {
  if (!(fraction >= 0 && fraction <= 1))
    throw pyparallel::InvalidArgument("memory fraction " + std::to_string(fraction) + " is not within 0 to 1");
  default_pool(device).set_limit(static_cast<std::uint64_t>(fraction * static_cast<double>(device_memory(device))));
}

void* pyparallel_torch_base_allocation(void* data, std::size_t* num_bytes) {
  const auto [begin, size] = owner(data, "base allocation")->segment(data);
  if (num_bytes != nullptr) *num_bytes = size;
  return begin;
}

}  // extern "C"
