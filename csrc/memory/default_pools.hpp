// The process's own pools, one per device and per kind of host memory: made on first use or given, and never destroyed.
// A forked child begins without any; what its parent allocated it can neither use nor free.
#pragma once
#include <functional>
#include <memory>

#include "memory/pool.hpp"

namespace pyparallel::memory {

// In place of a device: ordinary memory, memory that other processes can map, and memory that devices copy from and to.
inline constexpr int kHost = -1, kShared = -2, kPinned = -3;
inline constexpr int kMostDevices = 64;

// Memory of that device, or that kind of the host's. Throws InvalidArgument for a device that this build cannot serve.
std::unique_ptr<Upstream> device_upstream(int device);
// Bytes that the device has, in use or not. Likewise.
std::uint64_t device_memory(int device);

// Any thread. The reference stays valid for the life of the process: what is freed at exit still finds its pool.
Pool& default_pool(int device);
// The same, for owners that come and go.
std::shared_ptr<Pool> shared_default_pool(int device);
// Makes a pool the default of its device. Throws InvalidArgument if that device has another one already.
void set_default_pool(int device, std::shared_ptr<Pool> pool);
// Whether a parent of this process had default pools: blocks that nobody knows may be theirs.
bool default_pools_inherited();
// Calls `visit` with every default pool there is.
void for_each_default_pool(const std::function<void(int device, Pool&)>& visit);

}  // namespace pyparallel::memory
