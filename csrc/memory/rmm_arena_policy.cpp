// See rmm_arena_policy.hpp.
#include "memory/rmm_arena_policy.hpp"

#include <algorithm>

#include "memory/rounding.hpp"

namespace pyparallel::memory {
namespace {

constexpr std::uint64_t kLeastBlock = 256, kLeastSuperblock = 1 << 20;
constexpr std::uint64_t kStart = kLeastBlock;            // no block has the address 0: that is no block's
constexpr std::uint64_t kMost = std::uint64_t{1} << 62;  // of a device without a limit

}  // namespace

RmmArenaPolicy::RmmArenaPolicy(std::uint64_t device) {
  const std::uint64_t size = std::min(device, kMost) / kLeastBlock * kLeastBlock;
  if (size >= kLeastSuperblock) global_[kStart] = whole(kStart, size);
}

// Nothing is asked for: RMM gives a null pointer, here the handle 0.
bool RmmArenaPolicy::allocate(std::uint64_t num_bytes, std::uint64_t stream, Handle* block) {
  *block = 0;
  if (num_bytes == 0) return true;
  if (num_bytes > kMost) return false;
  const std::uint64_t size = round_up(num_bytes, kLeastBlock);
  Superblocks& own = streams_[stream];
  std::uint64_t address = allocate_from(own, size);
  if (address == 0) {
    give_back_all();
    address = allocate_from(own, size);
  }
  if (address == 0) return false;
  live_[address] = size;
  *block = address;
  return true;
}

// To whichever arena has the superblock now. One of the global arena that became empty merges.
void RmmArenaPolicy::free(Handle block) {
  if (block == 0) return;
  const auto found = live_.find(block);
  const std::uint64_t size = found->second;
  live_.erase(found);
  const auto give = [&](Superblocks& superblocks) {
    auto owner = superblocks.upper_bound(block);
    if (owner == superblocks.begin()) return superblocks.end();
    --owner;
    if (block >= owner->first + owner->second.num_bytes) return superblocks.end();
    owner->second.give(block, size);
    return owner;
  };
  if (const auto owner = give(global_); owner != global_.end()) {
    if (owner->second.empty()) merge(owner);
    return;
  }
  for (auto& [stream, superblocks] : streams_)
    if (give(superblocks) != superblocks.end()) return;
}

// 0 if there is no room.
std::uint64_t RmmArenaPolicy::allocate_from(Superblocks& own, std::uint64_t num_bytes) {
  const bool large = num_bytes > kLeastSuperblock;
  Superblocks& from = large ? global_ : own;
  auto superblock = large ? from.end() : first_that_fits(own, num_bytes);
  if (superblock == from.end()) superblock = acquire(num_bytes, from);
  return superblock == from.end() ? 0 : superblock->second.first_fit(num_bytes);
}

// The first superblock of the global arena with room, cut if it is empty and enough remains. It may hold large blocks.
RmmArenaPolicy::Superblocks::iterator RmmArenaPolicy::acquire(std::uint64_t num_bytes, Superblocks& into) {
  const auto found = first_that_fits(global_, num_bytes);
  if (found == global_.end()) return into.end();
  const std::uint64_t address = found->first, least = std::max(kLeastSuperblock, num_bytes);
  auto node = global_.extract(found);
  Superblock& taken = node.mapped();
  if (taken.empty() && taken.num_bytes >= least + kLeastSuperblock) {
    global_[address + least] = whole(address + least, taken.num_bytes - least);
    taken = whole(address, least);
  }
  reserved_ = std::max(reserved_, address + taken.num_bytes - kStart);
  return into.insert(std::move(node)).position;
}

void RmmArenaPolicy::give_back_all() {
  for (auto& [stream, superblocks] : streams_)
    while (!superblocks.empty()) {
      const auto given = global_.insert(superblocks.extract(superblocks.begin())).position;
      if (given->second.empty()) merge(given);
    }
}

// An empty superblock of the global arena with its empty neighbours there.
void RmmArenaPolicy::merge(Superblocks::iterator superblock) {
  const auto join = [&](Superblocks::iterator first, Superblocks::iterator second) {
    const std::uint64_t address = first->first, size = first->second.num_bytes;
    if (!first->second.empty() || !second->second.empty() || address + size != second->first) return;
    first->second = whole(address, size + second->second.num_bytes);
    global_.erase(second);
  };
  if (const auto next = std::next(superblock); next != global_.end()) join(superblock, next);
  if (superblock != global_.begin()) join(std::prev(superblock), superblock);
}

RmmArenaPolicy::Superblocks::iterator RmmArenaPolicy::first_that_fits(Superblocks& superblocks,
                                                                      std::uint64_t num_bytes) {
  return std::find_if(superblocks.begin(), superblocks.end(),
                      [&](const auto& entry) { return entry.second.largest >= num_bytes; });
}

RmmArenaPolicy::Superblock RmmArenaPolicy::whole(std::uint64_t address, std::uint64_t num_bytes) {
  return {num_bytes, {{address, num_bytes}}, num_bytes};
}

// The first bytes of the lowest free block with room, which there is.
std::uint64_t RmmArenaPolicy::Superblock::first_fit(std::uint64_t size) {
  const auto found = std::find_if(free.begin(), free.end(), [&](const auto& entry) { return entry.second >= size; });
  const auto [address, num_bytes_there] = *found;
  free.erase(found);
  if (num_bytes_there > size) free[address + size] = num_bytes_there - size;
  find_largest();
  return address;
}

void RmmArenaPolicy::Superblock::give(std::uint64_t address, std::uint64_t size) {
  auto next = free.lower_bound(address);
  if (next != free.end() && next->first == address + size) {
    size += next->second;
    next = free.erase(next);
  }
  if (next != free.begin() && std::prev(next)->first + std::prev(next)->second == address)
    std::prev(next)->second += size;
  else
    free[address] = size;
  find_largest();
}

void RmmArenaPolicy::Superblock::find_largest() {
  largest = 0;
  for (const auto& [address, size] : free) largest = std::max(largest, size);
}

}  // namespace pyparallel::memory
