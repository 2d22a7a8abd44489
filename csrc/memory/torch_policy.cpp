// See torch_policy.hpp.
#include "memory/torch_policy.hpp"

#include <algorithm>

#include "memory/rounding.hpp"

namespace pyparallel::memory {
namespace {

constexpr std::uint64_t kLeastBlock = 512, kMiB = 1 << 20;
constexpr std::uint64_t kSmall = kMiB, kSmallSegment = 2 * kMiB, kLargeSegment = 20 * kMiB, kOwnSegment = 10 * kMiB;
constexpr std::uint64_t kEndless = kLargeSegment << 22;  // addresses of a segment: whole pages of either size

std::uint64_t segment_size(std::uint64_t num_bytes) {
  if (num_bytes <= kSmall) return kSmallSegment;
  return num_bytes < kOwnSegment ? kLargeSegment : round_up(num_bytes, 2 * kMiB);
}

std::uint64_t page_size(bool small) { return small ? kSmallSegment : kLargeSegment; }

}  // namespace

bool TorchPolicy::allocate(std::uint64_t num_bytes, std::uint64_t stream, Handle* handle) {
  if (num_bytes > device_) return false;
  const std::uint64_t size = std::max(round_up(num_bytes, kLeastBlock), kLeastBlock);
  Blocks& blocks = blocks_.try_emplace({stream, size <= kSmall}, Blocks{size <= kSmall, {}, {}}).first->second;
  Block* block = find_free(blocks, size);
  if (block == nullptr) block = grow(blocks, size);
  if (block == nullptr) {
    release_cached();
    block = grow(blocks, size);
  }
  if (block == nullptr) return false;
  block->free = false;
  if (should_split(*block, size)) split_off(block, size, true, true);
  *handle = reinterpret_cast<Handle>(block);
  return true;
}

void TorchPolicy::free(Handle handle) {
  auto* const block = reinterpret_cast<Block*>(handle);
  block->free = true;
  insert_free(block);
}

// Expandable: a block counts with what is unmapped behind it, so that the last one is kept for what needs it.
TorchPolicy::Block* TorchPolicy::find_free(Blocks& blocks, std::uint64_t num_bytes) {
  Block key{0, num_bytes, nullptr, nullptr, nullptr, true, true};
  auto found = blocks.free.lower_bound(&key);
  if (found == blocks.free.end()) return nullptr;
  if (expandable_) {
    const auto could_be = [](const Block* block) {
      return block->num_bytes + (block->after && !block->after->mapped ? block->after->num_bytes : 0);
    };
    for (auto next = std::next(found); next != blocks.free.end() && could_be(*next) < could_be(*found); ++next)
      found = next;
  }
  Block* const block = *found;
  blocks.free.erase(found);
  return block;
}

bool TorchPolicy::should_split(const Block& block, std::uint64_t num_bytes) const {
  const std::uint64_t rest = block.num_bytes - num_bytes;
  return block.owner->small || expandable_ ? rest >= kLeastBlock : rest > kSmall;
}

TorchPolicy::Block* TorchPolicy::grow(Blocks& blocks, std::uint64_t num_bytes) {
  return expandable_ ? expand(blocks, num_bytes) : allocate_segment(blocks, num_bytes);
}

TorchPolicy::Block* TorchPolicy::allocate_segment(Blocks& blocks, std::uint64_t num_bytes) {
  const std::uint64_t size = segment_size(num_bytes);
  if (size > device_ - reserved_) return nullptr;
  reserved_ += size;
  ++growths_;
  return new_block({next_segment_++ * kEndless, size, &blocks, nullptr, nullptr, true, true});
}

// ---- expandable segments ----

// Maps what lacks, from a free block's end or the lowest address that has room.
TorchPolicy::Block* TorchPolicy::expand(Blocks& blocks, std::uint64_t num_bytes) {
  Block* block = find_expandable(blocks, num_bytes);
  if (!block->mapped && !map(block, std::min(block->num_bytes, num_bytes))) return nullptr;
  while (block->num_bytes < num_bytes) {
    Block* const next = block->after;
    if (!map(next, std::min(num_bytes - block->num_bytes, next->num_bytes))) return nullptr;
    block = next;
  }
  blocks.free.erase(block);
  return block;
}

TorchPolicy::Block* TorchPolicy::find_expandable(Blocks& blocks, std::uint64_t num_bytes) {
  if (blocks.unmapped.empty())
    blocks.unmapped.insert(new_block({next_segment_++ * kEndless, kEndless, &blocks, nullptr, nullptr, true, false}));
  for (Block* block : blocks.unmapped) {
    if (block->before != nullptr && block->before->free) block = block->before;
    std::uint64_t room = 0;
    for (const Block* part = block; part != nullptr && part->free && room < num_bytes; part = part->after)
      room += part->num_bytes;
    if (room >= num_bytes) return block;
  }
  return nullptr;  // not reached: the last unmapped block is endless
}

// The first pages of an unmapped block become memory, enough for `num_bytes`, and one block with free neighbours.
bool TorchPolicy::map(Block* block, std::uint64_t num_bytes) {
  const std::uint64_t size = round_up(num_bytes, page_size(block->owner->small));
  if (size > device_ - reserved_) return false;
  reserved_ += size;
  ++growths_;
  block->owner->unmapped.erase(block);
  block->mapped = true;
  if (block->num_bytes > size) split_off(block, size, true, false);
  insert_free(block);
  return true;
}

// Whole pages of a free block go back.
void TorchPolicy::unmap(Block* block) {
  const std::uint64_t page = page_size(block->owner->small), end = block->address + block->num_bytes;
  const std::uint64_t first = round_up(block->address, page), last = end / page * page;
  if (first >= last) return;
  block->owner->free.erase(block);
  if (last < end) split_off(block, last - block->address, true, true);
  Block* pages = block;
  if (first > block->address) {
    split_off(block, first - block->address, true, false);
    pages = block->after;
    block->owner->free.insert(block);
  }
  block->owner->unmapped.erase(pages);
  pages->mapped = false;
  reserved_ -= pages->num_bytes;
  if (pages->before != nullptr) merge(pages, pages->before);
  if (pages->after != nullptr) merge(pages, pages->after);
  pages->owner->unmapped.insert(pages);
}

// ---- blocks ----

void TorchPolicy::release_cached() {
  for (auto& [key, blocks] : blocks_) {
    const std::vector<Block*> free(blocks.free.begin(), blocks.free.end());
    for (Block* const block : free) {
      if (expandable_) {
        unmap(block);
      } else if (block->before == nullptr && block->after == nullptr) {
        blocks.free.erase(block);
        reserved_ -= block->num_bytes;
        unused_.push_back(block);
      }
    }
  }
}

void TorchPolicy::insert_free(Block* block) {
  if (block->before != nullptr) merge(block, block->before);
  if (block->after != nullptr) merge(block, block->after);
  block->owner->free.insert(block);
}

// `block`, in no set, takes a neighbour in, if both are free, and both or neither mapped.
bool TorchPolicy::merge(Block* block, Block* neighbour) {
  if (!neighbour->free || neighbour->mapped != block->mapped) return false;
  if (neighbour->mapped)
    neighbour->owner->free.erase(neighbour);
  else
    neighbour->owner->unmapped.erase(neighbour);
  if (block->before == neighbour) {
    block->address = neighbour->address;
    block->before = neighbour->before;
    if (block->before != nullptr) block->before->after = block;
  } else {
    block->after = neighbour->after;
    if (block->after != nullptr) block->after->before = block;
  }
  block->num_bytes += neighbour->num_bytes;
  unused_.push_back(neighbour);
  return true;
}

// `block` keeps its first bytes; the rest becomes a block of its own.
void TorchPolicy::split_off(Block* block, std::uint64_t num_bytes, bool free, bool mapped) {
  Block* const rest = new_block(
      {block->address + num_bytes, block->num_bytes - num_bytes, block->owner, block, block->after, free, mapped});
  if (rest->after != nullptr) rest->after->before = rest;
  block->after = rest;
  block->num_bytes = num_bytes;
  if (mapped)
    rest->owner->free.insert(rest);
  else
    rest->owner->unmapped.insert(rest);
}

TorchPolicy::Block* TorchPolicy::new_block(const Block& block) {
  if (unused_.empty()) return &records_.emplace_back(block);
  Block* const result = unused_.back();
  unused_.pop_back();
  return &(*result = block);
}

}  // namespace pyparallel::memory
