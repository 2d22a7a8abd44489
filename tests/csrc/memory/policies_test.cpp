// The policies of peers by examples worked out by hand from their sources, and what all of them owe any history.
#include <algorithm>

#include "check.hpp"
#include "core/error.hpp"
#include "memory/policy.hpp"
#include "memory/replay.hpp"

using namespace pyparallel;
using namespace pyparallel::memory;

namespace {

constexpr std::uint64_t kMiB = 1 << 20, kUnlimited = ~std::uint64_t{0};

// A policy whose answers are checked where they are asked for.
struct Example {
  explicit Example(const std::string& name, std::uint64_t device = kUnlimited) : policy(make_policy(name, device)) {}
  Handle allocate(std::uint64_t num_bytes, std::uint64_t reserved, std::uint64_t stream = 0) {
    Handle block = 0;
    CHECK_EQUAL(policy->allocate(num_bytes, stream, &block), true);
    CHECK_EQUAL(policy->reserved(), reserved);
    return block;
  }
  void refuse(std::uint64_t num_bytes) {
    Handle block = 0;
    CHECK_EQUAL(policy->allocate(num_bytes, 0, &block), false);
  }
  void free(Handle block) { policy->free(block); }
  std::unique_ptr<Policy> policy;
};

void torch_takes_segments_by_size() {
  Example e("torch");
  e.allocate(1, 2 * kMiB);               // small: 2 MiB
  e.allocate(kMiB, 2 * kMiB);            // 1 MiB is small, too
  e.allocate(kMiB, 4 * kMiB);            // 512 bytes are missing
  e.allocate(kMiB + 1, 24 * kMiB);       // large: 20 MiB
  e.allocate(10 * kMiB, 24 * kMiB);      // best fit: the rest of those 20
  e.allocate(10 * kMiB, 34 * kMiB);      // its own, a multiple of 2 MiB
  e.allocate(11 * kMiB + 1, 46 * kMiB);  // likewise, rounded up
  e.allocate(1, 48 * kMiB, 7);           // another stream shares nothing
}

void torch_leaves_up_to_a_mib_uncut() {
  Example e("torch");
  const Handle block = e.allocate(20 * kMiB, 20 * kMiB);
  e.free(block);
  const Handle most = e.allocate(19 * kMiB, 20 * kMiB);  // exactly 1 MiB is left: not split off
  e.allocate(kMiB + 512, 40 * kMiB);
  e.free(most);
  e.allocate(19 * kMiB - 512, 40 * kMiB);  // more is left: split off
  e.allocate(kMiB + 512, 40 * kMiB);
}

void torch_returns_whole_segments_when_short() {
  Example e("torch", 40 * kMiB);
  const Handle first = e.allocate(20 * kMiB, 20 * kMiB), second = e.allocate(12 * kMiB, 32 * kMiB);
  e.free(first);
  e.allocate(24 * kMiB, 36 * kMiB);  // 20 go back, 24 come
  e.refuse(12 * kMiB);
  e.free(second);
  e.allocate(6 * kMiB, 36 * kMiB);  // from the 12, which are held now
  e.refuse(7 * kMiB);
}

void torch_expands_by_pages() {
  Example e("torch-expandable");
  e.allocate(kMiB, 2 * kMiB);
  e.allocate(kMiB, 2 * kMiB);
  e.allocate(1, 4 * kMiB);
  const Handle large = e.allocate(15 * kMiB, 24 * kMiB);
  e.allocate(15 * kMiB, 44 * kMiB);  // 5 are there, 10 lack: a page of 20
  e.free(large);
  e.allocate(12 * kMiB, 44 * kMiB);  // the block inside, as the one at the end can grow
  e.allocate(11 * kMiB, 64 * kMiB);  // 10 at the end, a page more
}

void torch_unmaps_whole_pages_when_short() {
  Example e("torch-expandable", 60 * kMiB);
  const Handle first = e.allocate(30 * kMiB, 40 * kMiB);
  e.allocate(kMiB + 512, 40 * kMiB);
  e.free(first);  // covers the first page of 20 MiB, and half the second
  // 9 MiB less 512 bytes are at the end, so two pages lack and one remains: the first page goes back.
  e.allocate(31 * kMiB, 60 * kMiB);
  e.allocate(12 * kMiB, 60 * kMiB);  // of the 18 that are left of those pages
  e.refuse(11 * kMiB);               // 10 are in half a page, 6 at the end, and nothing can be unmapped
}

void rmm_doubles_and_takes_from_other_streams() {
  Example e("rmm");
  const Handle one = e.allocate(1000, 1024);
  const Handle two = e.allocate(1024, 2048);
  e.allocate(1024, 4096);  // doubles: 1024 of the 2048 are left
  CHECK_EQUAL(e.policy->growths(), std::uint64_t{3});
  e.allocate(0, 4096);
  e.free(one);
  e.free(two);
  e.allocate(512, 4096, 1);   // of the stream that freed
  e.allocate(1024, 4096, 2);  // blocks of different upstream blocks do not merge, but the one of 1024 fits
  e.allocate(1024, 4096, 2);
  e.allocate(1024, 8192, 2);
}

void rmm_grows_by_half_of_what_remains() {
  Example e("rmm", 16 * kMiB);
  const Handle block = e.allocate(kMiB, 8 * kMiB);
  e.allocate(8 * kMiB, 16 * kMiB);
  e.refuse(8 * kMiB);
  e.free(block);
  e.refuse(9 * kMiB);
  e.allocate(8 * kMiB, 16 * kMiB);
}

void an_arena_of_rmm_is_cut_into_superblocks() {
  Example e("rmm-arena");
  const Handle small = e.allocate(1, kMiB);
  CHECK_EQUAL(e.allocate(512, kMiB), small + 256);            // beside it
  e.allocate(kMiB, 2 * kMiB);                                 // does not fit beside them
  e.allocate(0, 2 * kMiB);                                    // no block
  e.allocate(256, 3 * kMiB, 1);                               // another stream has superblocks of its own
  const Handle large = e.allocate(kMiB + 1, 4 * kMiB + 256);  // one of its own, of all streams
  e.free(large);
  CHECK_EQUAL(e.allocate(2 * kMiB, 5 * kMiB, 2), large);  // merged with the rest of the arena, cut again
  e.free(small);
  CHECK_EQUAL(e.allocate(256, 5 * kMiB), small);  // the lowest that fits, not the best
  CHECK_EQUAL(e.policy->growths(), std::uint64_t{1});
}

void a_stream_of_rmm_may_take_what_is_left_of_a_large_block() {
  Example e("rmm-arena", 4 * kMiB);
  const Handle large = e.allocate(3 * kMiB + 512, 4 * kMiB);  // less than 1 MiB would remain: not cut
  const Handle small = e.allocate(256, 4 * kMiB, 1);          // the stream takes it, with the large block inside
  CHECK_EQUAL(small, large + 3 * kMiB + 512);
  e.free(large);
  e.allocate(2 * kMiB, 4 * kMiB);  // finds nothing, then what the stream gave back
  e.refuse(2 * kMiB);
}

void streams_of_rmm_give_superblocks_back_when_memory_is_short() {
  Example e("rmm-arena", 4 * kMiB);
  std::vector<Handle> blocks;
  for (std::uint64_t stream = 0; stream < 4; ++stream) blocks.push_back(e.allocate(256, (stream + 1) * kMiB, stream));
  e.free(blocks[1]);
  e.free(blocks[2]);
  e.allocate(2 * kMiB, 4 * kMiB, 3);                        // two empty superblocks merge once they came back
  const Handle last = e.allocate(kMiB - 256, 4 * kMiB, 5);  // after 256 bytes of a stream that gave them back
  CHECK_EQUAL(last, blocks[0] + 256);
  e.refuse(kMiB);
  e.free(blocks[3]);
  e.allocate(kMiB, 4 * kMiB);
  Example("rmm-arena", kMiB - 1).refuse(1);  // no superblock
}

void ours_moves_pages_to_where_it_grows() {
  Example e("pyparallel");
  const Handle first = e.allocate(8 * kMiB, 8 * kMiB);
  const Handle kept = e.allocate(2 * kMiB, 10 * kMiB);
  e.free(first);
  const Handle large = e.allocate(10 * kMiB, 12 * kMiB);  // 8 of the hole, and 2 new ones
  e.allocate(4 * kMiB, 16 * kMiB);                        // into the hole
  e.free(large);
  e.free(kept);
  e.allocate(12 * kMiB, 16 * kMiB);
}

// Blocks lie at multiples of the power of two in their size, so that those of equal sizes share pages evenly.
void ours_aligns_blocks_to_their_size() {
  Example e("pyparallel");
  const Handle all = e.allocate(8 * kMiB, 8 * kMiB);
  e.free(all);
  const Handle odd = e.allocate(kMiB + (kMiB / 2), 8 * kMiB);
  CHECK_EQUAL(odd, all);
  CHECK_EQUAL(e.allocate(4 * kMiB, 8 * kMiB), all + 4 * kMiB);      // at 2 MiB it would cut what is free in three
  CHECK_EQUAL(e.allocate(kMiB / 2, 8 * kMiB), all + 3 * kMiB / 2);  // opens no page
  CHECK_EQUAL(e.allocate(512, 8 * kMiB), all + 2 * kMiB);
  CHECK_EQUAL(e.allocate(2048, 8 * kMiB), all + 2 * kMiB + 512);         // small: at the beginning
  CHECK_EQUAL(e.allocate(3 * kMiB / 4, 8 * kMiB), all + 13 * kMiB / 4);  // in the same page, at the end
  CHECK_EQUAL(e.allocate(kMiB, 8 * kMiB), all + 2 * kMiB + 2560);        // no such place is left
}

// What a thread's cache holds would lie in the way: of a pool so small it is emptied before a large request.
void ours_empties_caches_of_small_pools_for_large_blocks() {
  Example e("pyparallel");
  const Handle first = e.allocate(2 * kMiB, 2 * kMiB);
  e.allocate(2 * kMiB, 4 * kMiB);
  const Handle larger = e.allocate(4 * kMiB, 8 * kMiB);
  e.free(first);
  const Handle small = e.allocate(kMiB / 4, 8 * kMiB), rest = e.allocate(7 * kMiB / 4, 8 * kMiB);
  e.free(small);
  e.free(rest);
  e.free(larger);
  CHECK_EQUAL(e.allocate(2 * kMiB, 8 * kMiB), first);  // the best fit, once the small block is free
}

void ours_gives_whole_segments_back_where_pages_cannot_move() {
  Example e("pyparallel-segments");
  const Handle first = e.allocate(8 * kMiB, 8 * kMiB);
  e.allocate(2 * kMiB, 10 * kMiB);
  e.free(first);
  e.allocate(10 * kMiB, 12 * kMiB);
}

// Of any history: what is held covers what is live and is within the device; what was refused leaves it usable.
void any_history_is_held_within_the_device(const std::string& name, std::mt19937_64& random) {
  const std::uint64_t device = (64 + random() % 64) * kMiB;
  const auto policy = make_policy(name, device);
  std::vector<std::pair<Handle, std::uint64_t>> blocks;
  std::uint64_t live = 0;
  for (int i = 0; i < 5'000; ++i) {
    if (blocks.empty() || random() % 100 < 55) {
      const std::uint64_t size = 1 + random() % (std::uint64_t{1} << (random() % 24));
      Handle block = 0;
      if (policy->allocate(size, random() % 3, &block)) blocks.emplace_back(block, size), live += size;
    } else {
      std::swap(blocks[random() % blocks.size()], blocks.back());
      policy->free(blocks.back().first);
      live -= blocks.back().second;
      blocks.pop_back();
    }
    CHECK_EQUAL(policy->reserved() >= live, true);
    CHECK_EQUAL(policy->reserved() <= device, true);
  }
  for (const auto& [block, size] : blocks) policy->free(block);
  Handle all = 0;
  if (name != "rmm") CHECK_EQUAL(policy->allocate(device / 2, 0, &all), true);
}

void a_replay_refuses_what_is_no_history() {
  const std::int64_t block[] = {0, 0, 0}, num_bytes[] = {5, kFree, kFree}, negative[] = {-2};
  const std::uint64_t stream[] = {0, 0, 0};
  Replay replay(make_policy("rmm", kUnlimited)), other(make_policy("rmm", kUnlimited));
  CHECK_EQUAL(replay.run({block, num_bytes, stream, 2}), true);
  CHECK_EQUAL(replay.peak_requested(), std::uint64_t{5});
  CHECK_THROWS(replay.run({block + 2, num_bytes + 2, stream, 1}), InvalidArgument);
  CHECK_THROWS(other.run({block, negative, stream, 1}), InvalidArgument);
  CHECK_THROWS(make_policy("best", 0), InvalidArgument);
}

}  // namespace

int main() {
  std::mt19937_64 random = fresh_random();
  torch_takes_segments_by_size();
  torch_leaves_up_to_a_mib_uncut();
  torch_returns_whole_segments_when_short();
  torch_expands_by_pages();
  torch_unmaps_whole_pages_when_short();
  rmm_doubles_and_takes_from_other_streams();
  rmm_grows_by_half_of_what_remains();
  an_arena_of_rmm_is_cut_into_superblocks();
  a_stream_of_rmm_may_take_what_is_left_of_a_large_block();
  streams_of_rmm_give_superblocks_back_when_memory_is_short();
  ours_moves_pages_to_where_it_grows();
  ours_aligns_blocks_to_their_size();
  ours_empties_caches_of_small_pools_for_large_blocks();
  ours_gives_whole_segments_back_where_pages_cannot_move();
  for (const std::string& name : policy_names()) any_history_is_held_within_the_device(name, random);
  a_replay_refuses_what_is_no_history();
}
