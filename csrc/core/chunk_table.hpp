// A list of tensors cut into chunks of equal size, one block per chunk: in kernel arguments, one launch per full table,
// or in device memory, one launch for all.
//
//   items         A: 5000 elements   B: 300   C: 4100        chunk = 2048
//   blocks        0      1      2      3      4      5      6
//   first_block  [0,                   3,     4,                   7]
#pragma once
#include <algorithm>

#include "core/device_tables.hpp"
#include "core/launch.hpp"

namespace pyparallel {

// Chunks are whole multiples of this, so that a chunk starts on the same alignment as its tensor.
inline constexpr std::int64_t kChunkUnit = 2048;

// Item is trivial, has `numel` > 0, and comes from the caller's list. Block b works on item i where first_block[i] <= b
// < first_block[i + 1]. The size leaves room in the arguments for what a kernel takes beside its table.
template <class Item>
struct ChunkTable {
  static constexpr std::size_t kBytes = kMaxArgumentBytes - 128;
  static constexpr std::size_t kHeadBytes = sizeof(std::int64_t) + 2 * sizeof(void*) + 2 * sizeof(std::uint32_t);
  static constexpr int kCapacity = static_cast<int>((kBytes - kHeadBytes) / (sizeof(Item) + sizeof(std::uint32_t)));

  Item items[kCapacity];
  // Null, or where all of a long list lies on the device; `items` and `first_block` are not filled then.
  const Item* long_items;
  const std::uint32_t* long_first_block;
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

// At most 11 steps over arguments, 32 over memory, the same for every thread of the block.
__device__ __forceinline__ ChunkIndex find_chunk(const std::uint32_t* first_block, int count, std::uint32_t block) {
  int low = 0, high = count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (first_block[middle] <= block)
      low = middle;
    else
      high = middle;
  }
  return {low, static_cast<std::int64_t>(block - first_block[low])};
}

template <class Item>
__device__ __forceinline__ ChunkIndex find_chunk(const ChunkTable<Item>& table, std::uint32_t block) {
  return find_chunk(table.first_block, table.count, block);
}

// The same for kernels whose lists may be long.
template <class Item>
struct ItemChunk {
  Item item;
  std::int64_t number;
};
template <class Item>
__device__ __forceinline__ ItemChunk<Item> find_item_chunk(const ChunkTable<Item>& table, std::uint32_t block) {
  if (table.long_items == nullptr) {
    const ChunkIndex index = find_chunk(table.first_block, table.count, block);
    return {table.items[index.item], index.number};
  }
  const ChunkIndex index = find_chunk(table.long_first_block, table.count, block);
  return {table.long_items[index.item], index.number};
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
  table.long_items = nullptr;
  table.long_first_block = nullptr;
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

// Items, the empty ones last: their first block is behind the last one, so that no block finds them. Returns the number
// of blocks.
template <class Item>
std::int64_t fill_long_table(const Item* items, std::int64_t count, std::int64_t chunk, void* memory) {
  auto* const target = static_cast<Item*>(memory);
  auto* const first_block = reinterpret_cast<std::uint32_t*>(target + count);
  std::int64_t blocks = 0, place = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    if (items[i].numel == 0) continue;
    target[place] = items[i];
    first_block[place++] = static_cast<std::uint32_t>(blocks);
    blocks += chunk_count(items[i].numel, chunk);
  }
  std::fill(first_block + place, first_block + count + 1, static_cast<std::uint32_t>(blocks));
  for (std::int64_t i = 0; i < count; ++i)
    if (items[i].numel == 0) target[place++] = items[i];
  return blocks;
}

// Calls run(table, blocks) for a list that is long or short: with one table in device memory, blocks possibly 0 and
// empty tensors among its items, if the arguments cannot hold it and there are `tables`; as for_each_table otherwise.
template <class Item, class Run>
void for_each_table(const Item* items, std::int64_t count, std::int64_t chunk, DeviceTables* tables, int device,
                    cudaStream_t stream, const Run& run) {
  if (tables == nullptr || count <= ChunkTable<Item>::kCapacity)
    return for_each_table<Item>(items, count, chunk, [](const Item& item) { return item; }, run);
  const std::size_t bytes =
      static_cast<std::size_t>(count) * sizeof(Item) + (static_cast<std::size_t>(count) + 1) * sizeof(std::uint32_t);
  const DeviceTables::Place place = tables->prepare(
      chunk, bytes, device, stream, [&](void* memory) { return fill_long_table(items, count, chunk, memory); });
  ChunkTable<Item> table;
  table.long_items = static_cast<const Item*>(place.memory);
  table.long_first_block = reinterpret_cast<const std::uint32_t*>(table.long_items + count);
  table.chunk = chunk;
  table.count = static_cast<std::int32_t>(count);
  run(table, place.blocks);
  tables->used(chunk, device, stream);
}

}  // namespace pyparallel
