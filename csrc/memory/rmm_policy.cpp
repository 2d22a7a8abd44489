// See rmm_policy.hpp.
#include "memory/rmm_policy.hpp"

#include <algorithm>

#include "memory/rounding.hpp"

namespace pyparallel::memory {
namespace {

constexpr std::uint64_t kLeastBlock = 256;
constexpr std::uint64_t kUnlimited = ~std::uint64_t{0};

}  // namespace

// Nothing is asked for: RMM gives a null pointer, here the handle 0.
bool RmmPolicy::allocate(std::uint64_t num_bytes, std::uint64_t stream, Handle* block) {
  *block = 0;
  if (num_bytes == 0) return true;
  if (num_bytes > device_) return false;
  const std::uint64_t size = round_up(num_bytes, kLeastBlock);
  FreeList& own = streams_[stream];
  std::uint64_t address = 0;
  if (!take(own, size, &address) && !take_from_others(own, size, &address) && !grow(own, size, &address)) return false;
  live_[address] = {size, stream};
  *block = address;
  return true;
}

void RmmPolicy::free(Handle block) {
  if (block == 0) return;
  const auto found = live_.find(block);
  insert(streams_[found->second.stream], block, found->second.num_bytes);
  live_.erase(found);
}

// The first bytes of the best fit; the rest stays in its list.
bool RmmPolicy::take(FreeList& from, std::uint64_t num_bytes, std::uint64_t* address) {
  const auto found = from.by_size.lower_bound({num_bytes, 0});
  if (found == from.by_size.end()) return false;
  const auto [size, start] = *found;
  erase(from, start);
  if (size > num_bytes) {
    from.by_address[start + num_bytes] = size - num_bytes;
    from.by_size.insert({size - num_bytes, start + num_bytes});
  }
  *address = start;
  return true;
}

bool RmmPolicy::take_from_others(FreeList& own, std::uint64_t num_bytes, std::uint64_t* address) {
  for (auto& [stream, other] : streams_)
    if (&other != &own && take(other, num_bytes, address)) return true;
  for (auto& [stream, other] : streams_) {
    if (&other == &own) continue;
    for (const auto& [start, size] : other.by_address) insert(own, start, size);
    other = {};
    if (take(own, num_bytes, address)) return true;
  }
  return false;
}

bool RmmPolicy::grow(FreeList& own, std::uint64_t num_bytes, std::uint64_t* address) {
  std::uint64_t size = size_to_grow(num_bytes);
  if (size < num_bytes && device_ != kUnlimited) {
    reclaim(own, num_bytes);
    size = size_to_grow(num_bytes);
  }
  if (size < num_bytes) return false;
  ++growths_;
  reserved_ += size;
  const std::uint64_t start = next_address_;
  next_address_ += size;
  upstream_blocks_[start] = size;
  insert(own, start, size);
  return take(own, num_bytes, address);
}

std::uint64_t RmmPolicy::size_to_grow(std::uint64_t num_bytes) const {
  if (device_ == kUnlimited) return std::max(num_bytes, reserved_);
  const std::uint64_t remaining = device_ - reserved_;
  return num_bytes <= remaining ? std::max(num_bytes, remaining / 2) : 0;
}

void RmmPolicy::reclaim(FreeList& own, std::uint64_t num_bytes) {
  for (auto block = own.by_address.begin(); block != own.by_address.end() && device_ - reserved_ < num_bytes;) {
    const auto [start, size] = *block++;
    const auto upstream = upstream_blocks_.find(start);
    if (upstream == upstream_blocks_.end() || upstream->second != size) continue;
    erase(own, start);
    upstream_blocks_.erase(upstream);
    reserved_ -= size;
  }
}

// Joins neighbours, but never two upstream blocks.
void RmmPolicy::insert(FreeList& list, std::uint64_t address, std::uint64_t num_bytes) {
  const auto after = list.by_address.lower_bound(address);
  if (after != list.by_address.end() && after->first == address + num_bytes && !upstream_blocks_.count(after->first)) {
    num_bytes += after->second;
    erase(list, after->first);
  }
  const auto next = list.by_address.lower_bound(address);
  if (next != list.by_address.begin() && !upstream_blocks_.count(address)) {
    const auto [start, size] = *std::prev(next);
    if (start + size == address) {
      erase(list, start);
      address = start, num_bytes += size;
    }
  }
  list.by_address[address] = num_bytes;
  list.by_size.insert({num_bytes, address});
}

void RmmPolicy::erase(FreeList& list, std::uint64_t address) {
  const auto found = list.by_address.find(address);
  list.by_size.erase({found->second, address});
  list.by_address.erase(found);
}

}  // namespace pyparallel::memory
