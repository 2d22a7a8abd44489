// The state machine alone, two of them stepped by hand: ways, tags, any source, crowded inboxes, disagreement.
#include "comm/shm/messenger.hpp"

#include <unistd.h>

#include <cstring>
#include <numeric>

#include "check.hpp"
#include "comm/shm/communicator.hpp"
#include "core/error.hpp"

using namespace pyparallel;
using namespace pyparallel::shm;

namespace {

// Ranks in one thread: each is stepped until all have nothing to do.
struct World {
  explicit World(int world_size) : segment(Communicator::create_control(world_size)) {
    auto& control = *reinterpret_cast<ControlBlock*>(segment->data());
    const std::vector<int> processes(static_cast<std::size_t>(world_size), getpid());
    for (int r = 0; r < world_size; ++r) {
      tables.push_back(std::make_unique<SegmentTable>(control, r));
      ranks.push_back(std::make_unique<Messenger>(control, r, processes, *tables.back()));
    }
  }
  void settle() {
    for (bool moved = true; moved;) {
      moved = false;
      for (const auto& rank : ranks) moved |= rank->progress();
    }
  }
  std::shared_ptr<SharedSegment> segment;
  std::vector<std::unique_ptr<SegmentTable>> tables;
  std::vector<std::unique_ptr<Messenger>> ranks;
};

std::shared_ptr<Message> message(bool sending, int peer, std::uint32_t tag, char* data, std::uint64_t count,
                                 DType dtype = DType::kUInt8) {
  auto made = std::make_shared<Message>();
  made->sending = sending;
  made->peer = peer;
  made->tag = tag;
  made->data = data;
  made->count = count;
  made->dtype = dtype;
  return made;
}

// Bytes in ordinary memory, or in a segment.
struct Bytes {
  Bytes(std::size_t count, bool shared) : own(shared ? 0 : count + 1) {
    if (shared) segment = SharedSegment::create(count + 1);
    data = shared ? segment->data() + 1 : own.data();
  }
  std::vector<char> own;
  std::shared_ptr<SharedSegment> segment;
  char* data;
};

constexpr std::size_t kChunk = Messenger::kChunkBytes;

void contents_arrive(std::size_t count, bool from_shared, bool to_shared, bool receive_first) {
  World world(2);
  Bytes source(count, from_shared), target(count, to_shared);
  for (std::size_t i = 0; i < count; ++i) source.data[i] = static_cast<char>(i * 7 + i / 251);
  const auto send = message(true, 1, 5, source.data, count), receive = message(false, 0, 5, target.data, count);
  if (receive_first) world.ranks[1]->start(receive);
  world.ranks[0]->start(send);
  if (!receive_first) {
    world.settle();
    CHECK_EQUAL(send->completed.load(), count <= kInboxSlotBytes);
    world.ranks[1]->start(receive);
  }
  world.settle();
  CHECK_EQUAL(send->completed.load() && receive->completed.load(), true);
  CHECK_EQUAL(receive->source, 0);
  CHECK_EQUAL(count == 0 || std::memcmp(source.data, target.data, count) == 0, true);
  CHECK_EQUAL(world.ranks[0]->busy() || world.ranks[1]->busy(), false);
}

// More small and large messages than slots, cells and bounce buffers, received from the last tag to the first.
void tags_match_in_any_order(std::uint32_t tags) {
  World world(2);
  std::vector<std::vector<char>> sent, received;
  std::vector<std::shared_ptr<Message>> works;
  for (std::uint32_t tag = 0; tag < tags; ++tag) {
    sent.emplace_back(tag % 50 == 0 ? 3 * kChunk + tag : 10, static_cast<char>(tag * 3));
    received.emplace_back(sent.back().size());
  }
  for (std::uint32_t tag = 0; tag < tags; ++tag) {
    works.push_back(message(true, 1, tag, sent[tag].data(), sent[tag].size()));
    world.ranks[0]->start(works.back());
  }
  world.settle();
  for (std::uint32_t tag = tags; tag-- > 0;) {
    works.push_back(message(false, 0, tag, received[tag].data(), received[tag].size()));
    world.ranks[1]->start(works.back());
    if (tag % 7 == 0) world.settle();
  }
  world.settle();
  for (const auto& work : works) CHECK_EQUAL(work->completed.load(), true);
  for (std::uint32_t tag = 0; tag < tags; ++tag) CHECK_EQUAL(sent[tag] == received[tag], true);
}

// Messages of one tag in the order they were sent, whatever their ways; from any rank in the order they came.
void equal_tags_match_in_order() {
  World world(3);
  std::vector<char> values(3 * 40);
  std::iota(values.begin(), values.end(), 0);
  std::vector<char> large(2 * kChunk, 77);
  world.ranks[0]->start(message(true, 2, 1, values.data(), 40));
  world.ranks[1]->start(message(true, 2, 1, values.data() + 40, 40));
  world.ranks[0]->start(message(true, 2, 1, large.data(), large.size()));
  world.ranks[0]->start(message(true, 2, 1, values.data() + 80, 40));
  char first[40], second[40], fourth[40];
  std::vector<char> third(large.size());
  const std::pair<char*, std::size_t> targets[4] = {
      {first, 40}, {second, 40}, {third.data(), third.size()}, {fourth, 40}};
  const int sources[4] = {0, 1, 0, 0};
  for (int i = 0; i < 4; ++i) {
    const auto receive = message(false, kAnyRank, 1, targets[i].first, targets[i].second);
    world.ranks[2]->start(receive);
    world.settle();
    CHECK_EQUAL(receive->completed.load(), true);
    CHECK_EQUAL(receive->source, sources[i]);
  }
  CHECK_EQUAL(+first[0], 0);
  CHECK_EQUAL(+second[0], 40);
  CHECK_EQUAL(+third[2 * kChunk - 1], 77);
  CHECK_EQUAL(+fourth[0], 80);
}

void disagreement_fails_both(std::size_t count) {
  World world(2);
  std::vector<char> data(8 * count + 8);
  const auto send = message(true, 1, 3, data.data(), count, DType::kInt32);
  const auto receive = message(false, 0, 3, data.data(), count + 1, DType::kInt64);
  world.ranks[0]->start(send);
  std::string texts[2];
  try {
    world.ranks[1]->start(receive);
    world.ranks[1]->progress();
  } catch (const CollectiveMismatchError& error) {
    texts[1] = error.what();
    world.ranks[1]->fail(std::current_exception());
  }
  try {
    world.ranks[0]->progress();
  } catch (const CollectiveMismatchError& error) {
    texts[0] = error.what();
    world.ranks[0]->fail(std::current_exception());
  }
  CHECK_EQUAL(texts[0] == texts[1], true);
  CHECK_EQUAL(texts[0].find("rank 0 sent " + std::to_string(count) + " x int32") != std::string::npos, true);
  CHECK_EQUAL(texts[0].find("rank 1 receives " + std::to_string(count + 1) + " x int64") != std::string::npos, true);
  CHECK_EQUAL(receive->completed.load() && receive->error != nullptr, true);
  CHECK_EQUAL(send->completed.load(), true);
}

void only_bounded_memory_is_held() {
  World world(2);
  std::vector<std::vector<char>> buffers(40, std::vector<char>(3 * kChunk));
  for (std::uint32_t i = 0; i < 20; ++i) {
    world.ranks[0]->start(message(true, 1, i, buffers[2 * i].data(), 3 * kChunk));
    world.ranks[1]->start(message(false, 0, i, buffers[2 * i + 1].data(), 3 * kChunk));
  }
  world.settle();
  CHECK_EQUAL(world.ranks[0]->busy() || world.ranks[1]->busy(), false);
  std::uint32_t entries = 0;
  auto& control = *reinterpret_cast<ControlBlock*>(world.segment->data());
  for (const SegmentEntry& entry : control.rank(1).segments) entries += entry.generation.load() & 1;
  CHECK_EQUAL(entries, static_cast<std::uint32_t>(Messenger::kBounceBuffers));
}

}  // namespace

int main() {
  for (std::size_t count : {std::size_t{0}, std::size_t{1}, std::size_t{4096}, std::size_t{4097}, kChunk - 1, kChunk,
                            kChunk + 1, 2 * kChunk, 2 * kChunk + 1, 7 * kChunk + 13})
    for (int mode = 0; mode < 8; ++mode) contents_arrive(count, mode & 1, mode & 2, mode & 4);
  tags_match_in_any_order(1000);
  equal_tags_match_in_order();
  disagreement_fails_both(3);
  disagreement_fails_both(100'000);
  only_bounded_memory_is_held();
}
