// A list of tensors in kernel arguments, cut into chunks of equal size: one block per chunk, one launch per full table.
//
//   items         A: 5000 elements   B: 300   C: 4100        chunk = 2048
//   blocks        0      1      2      3      4      5      6
//   first_block  [0,                   3,     4,                   7]
#pragma once
#include <algorithm>

#include "core/launch.hpp"

namespace pyparallel {

// Chunks are whole multiples of this, so that a chunk starts on the same alignment as its tensor.
inline constexpr std::int64_t kChunkUnit = 2048;

// Item is trivial, has `numel` > 0, and comes from the caller's list. Block b works on item i where first_block[i] <= b
// < first_block[i + 1]. The size leaves room in the arguments for what a kernel takes beside its table.
template <class Item>
struct ChunkTable {
  static constexpr std::size_t kBytes = kMaxArgumentBytes - 128;
  static constexpr int kCapacity = static_cast<int>((kBytes - sizeof(std::int64_t) - 2 * sizeof(std::uint32_t)) /
                                                    (sizeof(Item) + sizeof(std::uint32_t)));

  Item items[kCapacity];
  std::int64_t chunk;  // elements
  std::uint32_t first_block[kCapacity + 1];
  std::int32_t count;

  GPU_LARGE_ARGUMENT(ChunkTable)
};

// ---- device: which part of which tensor is this block's ----

struct ChunkIndex {
  int item;
  std::int64_t number;  // of the chunk in its tensor, from 0
};

// Binary search over the argument memory: at most 11 steps, the same for every thread of the block.
template <class Item>
__device__ __forceinline__ ChunkIndex find_chunk(const ChunkTable<Item>& table, std::uint32_t block) {
  int low = 0, high = table.count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (table.first_block[middle] <= block)
      low = middle;
    else
      high = middle;
  }
  return {low, static_cast<std::int64_t>(block - table.first_block[low])};
}

// ---- host: filling tables ----

inline std::int64_t chunk_count(std::int64_t numel, std::int64_t chunk) { return (numel + chunk - 1) / chunk; }

template <class Item>
std::int64_t total_numel(const Item* items, std::int64_t count) {
  std::int64_t total = 0;
  for (std::int64_t i = 0; i < count; ++i) total += items[i].numel;
  return total;
}

// About `blocks` chunks in all, none shorter than the unit.
inline std::int64_t chunk_for_blocks(std::int64_t total, std::int64_t blocks) {
  return std::max<std::int64_t>(1, chunk_count(total, blocks * kChunkUnit)) * kChunkUnit;
}

// Several waves of blocks on `device`, so that the last wave costs little, while a block still has enough to do to hide
// its start. Never more than 64 Ki elements, hence a grid below 2^31 blocks for any list that fits in memory.
inline std::int64_t chunk_for_device(std::int64_t total, int device) {
  return std::min<std::int64_t>(32 * kChunkUnit, chunk_for_blocks(total, blocks_for_device(device)));
}

// Calls run(table, blocks) once per full table and once for the rest, in the order of the list. Empty tensors take no
// place and never end a table; `item_of` makes the table's item from the caller's.
template <class Item, class Source, class ItemOf, class Run>
void for_each_table(const Source* sources, std::int64_t count, std::int64_t chunk, const ItemOf& item_of,
                    const Run& run) {
  ChunkTable<Item> table;  // 32 KB, filled only as far as needed
  table.chunk = chunk;
  table.count = 0;
  std::int64_t blocks = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    if (sources[i].numel == 0) continue;
    table.items[table.count] = item_of(sources[i]);
    table.first_block[table.count++] = static_cast<std::uint32_t>(blocks);
    blocks += chunk_count(sources[i].numel, chunk);
    table.first_block[table.count] = static_cast<std::uint32_t>(blocks);
    if (table.count < ChunkTable<Item>::kCapacity) continue;
    run(table, blocks);
    table.count = 0;
    blocks = 0;
  }
  if (table.count > 0) run(table, blocks);
}

}  // namespace pyparallel
