// The lane: threads as ranks that send and receive at random, in the background too, beside collectives; errors end
// all.
#include "comm/message_lane.hpp"

#include <algorithm>
#include <chrono>

#include "check.hpp"
#include "comm/progress.hpp"
#include "comm/world.hpp"
#include "core/error.hpp"

using namespace pyparallel;
using shm::Communicator;
using shm::Message;

namespace {

using Values = std::vector<std::int32_t>;

std::shared_ptr<Message> start(MessageLane& lane, bool sending, int peer, std::uint32_t tag, Values& values) {
  auto message = std::make_shared<Message>();
  message->sending = sending;
  message->peer = peer;
  message->tag = tag;
  message->dtype = DType::kInt32;
  message->count = values.size();
  message->data = reinterpret_cast<char*>(values.data());
  lane.submit(message);
  return message;
}

// Every pair of ranks exchanges the same list of sizes; each rank starts and waits in an order of its own.
void random_exchanges(int world_size, unsigned seed) {
  std::mt19937 common(seed);
  Values sizes;
  for (int i = 0; i < 12; ++i) sizes.push_back(static_cast<int>(common() % (i % 4 == 0 ? 200'000 : 2'000)));
  with_world(world_size, [&](Communicator& c) {
    MessageLane lane(c);
    std::mt19937 random(seed + static_cast<unsigned>(c.rank()));
    struct Transfer {
      bool sending;
      int peer;
      std::uint32_t tag;
      Values values;
      std::shared_ptr<Message> message;
    };
    std::vector<Transfer> transfers;
    for (int peer = 0; peer < world_size; ++peer)
      for (std::uint32_t tag = 0; peer != c.rank() && tag < sizes.size(); ++tag) {
        const auto size = static_cast<std::size_t>(sizes[tag]);
        transfers.push_back({true, peer, tag, Values(size, c.rank() * 1000 + static_cast<int>(tag)), {}});
        transfers.push_back({false, peer, tag, Values(size, -1), {}});
      }
    std::shuffle(transfers.begin(), transfers.end(), random);
    for (Transfer& t : transfers) t.message = start(lane, t.sending, t.peer, t.tag, t.values);
    std::shuffle(transfers.begin(), transfers.end(), random);
    for (Transfer& t : transfers) {
      lane.wait(*t.message, {});
      const int writer = t.sending ? c.rank() : t.peer;
      for (std::int32_t value : t.values) CHECK_EQUAL(value, writer * 1000 + static_cast<int>(t.tag));
    }
  });
}

// Rank 0 waits for an answer that rank 1 gives only after a barrier; the large receive must move meanwhile.
void a_message_needs_no_waiter() {
  with_world(2, [](Communicator& c) {
    MessageLane lane(c);
    ProgressQueue queue(c);
    Values values(300'000, c.rank() == 0 ? 5 : 0);
    const auto message = start(lane, c.rank() == 0, 1 - c.rank(), 0, values);
    if (c.rank() == 0) lane.wait(*message, {});
    queue.wait(*queue.submit({}, false), {});  // rank 1 is here all the time
    while (!lane.test(*message)) std::this_thread::yield();
    CHECK_EQUAL(values[299'999], 5);
  });
}

// Two threads of one rank wait for different messages: whoever makes progress completes the other's as well.
void two_waiters_of_one_rank() {
  with_world(2, [](Communicator& c) {
    MessageLane lane(c);
    for (int round = 0; round < 20; ++round) {
      Values a(round % 2 ? 50'000 : 5, 1), b(10, 2);
      const auto first = start(lane, c.rank() == 0, 1 - c.rank(), 1, a);
      const auto second = start(lane, c.rank() == 0, 1 - c.rank(), 2, b);
      std::thread other([&] { lane.wait(*second, {}); });
      lane.wait(*first, {});
      other.join();
    }
  });
}

void many_small_ones_back_and_forth() {
  with_world(2, [](Communicator& c) {
    MessageLane lane(c);
    Values values(4, c.rank());
    for (int round = 0; round < 2000; ++round) {
      const bool sending = (round + c.rank()) % 2 == 0;
      lane.wait(*start(lane, sending, 1 - c.rank(), 0, values), {});
      CHECK_EQUAL(values[3], 0);
    }
  });
}

template <typename Error>
void everything_fails_with(const std::function<void(Communicator&, MessageLane&)>& provoke, double timeout = 60.0) {
  std::atomic<bool> done{false};
  with_world(
      2,
      [&](Communicator& c) {
        MessageLane lane(c);
        if (c.rank() == 1) {
          while (!done) std::this_thread::yield();
          return;
        }
        provoke(c, lane);
        Values values(10);
        CHECK_THROWS(start(lane, false, 1, 9, values), Error);
        done = true;
      },
      timeout);
}

void deadlines_and_interrupts_break_the_lane() {
  Values large(100'000), small(5);
  everything_fails_with<CollectiveTimeoutError>(
      [&](Communicator&, MessageLane& lane) {
        const auto pending = start(lane, false, 1, 1, small);
        CHECK_THROWS(lane.wait(*start(lane, true, 1, 0, large), {}), CollectiveTimeoutError);
        CHECK_THROWS(lane.wait(*pending, {}), CollectiveTimeoutError);
      },
      0.2);
  everything_fails_with<shm::Interrupted>([&](Communicator&, MessageLane& lane) {
    CHECK_THROWS(lane.wait(*start(lane, false, 1, 0, small), [] { return true; }), shm::Interrupted);
  });
  everything_fails_with<InvalidArgument>([&](Communicator&, MessageLane& lane) {
    const auto pending = start(lane, false, 1, 0, small);
    std::thread closer([&] { lane.close(); });
    CHECK_THROWS(lane.wait(*pending, {}), InvalidArgument);
    closer.join();
  });
}

// What a rank sent before it left still arrives; what it did not send fails, and nothing else.
void who_left_is_named() {
  std::atomic<bool> left{false};
  with_world(3, [&](Communicator& c) {
    MessageLane lane(c);
    Values sent(7, 42), got(7), never(7), other(7, c.rank()), large(100'000);
    if (c.rank() == 1) {
      lane.wait(*start(lane, true, 0, 0, sent), {});
      c.leave();
      left = true;
      return;
    }
    while (!left) std::this_thread::yield();
    if (c.rank() == 0) {
      const auto arrived = start(lane, false, 1, 0, got), lost = start(lane, false, 1, 0, never);
      lane.wait(*arrived, {});
      CHECK_EQUAL(got[6], 42);
      CHECK_THROWS(lane.wait(*lost, {}), PeerLostError);
      CHECK_THROWS(lane.wait(*start(lane, true, 1, 0, large), {}), PeerLostError);
    }
    lane.wait(*start(lane, c.rank() == 0, 2 - c.rank(), 0, other), {});  // the others go on
    CHECK_EQUAL(other[6], 0);
  });
}

void disagreement_is_named_on_both(std::size_t count) {
  with_world(2, [&](Communicator& c) {
    MessageLane lane(c);
    Values values(count + static_cast<std::size_t>(c.rank()));
    const auto both = [&] {
      lane.wait(*start(lane, c.rank() == 0, 1 - c.rank(), 0, values), {});
      Values more(10);  // a small send was complete before; its sender hears of it now
      lane.wait(*start(lane, false, 1 - c.rank(), 1, more), {});
    };
    CHECK_THROWS(both(), CollectiveMismatchError);
  });
}

// Rank 1 fails while the others wait, in both lanes: all of them, and it itself, name it; who died later does not.
void a_failure_is_told(int world_size) {
  std::atomic<int> named{0};
  with_world(world_size, [&](Communicator& c) {
    MessageLane lane(c);
    ProgressQueue queue(c);
    Values small(5), large(100'000);
    try {
      if (c.rank() == 1) {
        std::this_thread::sleep_for(std::chrono::milliseconds(30));
        c.liveness().fail("layer 7", std::string(2000, 'x'));
        c.liveness().fail("later", "is not heard");
      }
      if (c.rank() == 2)
        queue.wait(*queue.submit({}, c.world_size() % 2 == 0), {});
      else
        lane.wait(*start(lane, c.rank() % 2 == 0, c.rank() == 1 ? 0 : 1, static_cast<std::uint32_t>(c.rank()),
                         c.rank() % 2 == 0 ? large : small),
                  {});
    } catch (const PeerFailedError& error) {
      named += error.rank == 1 && error.operation == "layer 7" && error.cause.size() == sizeof(shm::Failure::cause) - 1;
    }
  });
  CHECK_EQUAL(named.load(), world_size);
}

// An error that only one rank has, here a file table that lies, ends the wait of the others.
void an_error_of_one_rank_is_told() {
  std::atomic<int> told{0};
  with_world(2, [&](Communicator& c) {
    MessageLane lane(c);
    Values values(c.rank() == 0 ? 0 : 100'000);
    if (c.rank() == 0) {
      const auto segment = SharedSegment::create(400'000);
      CHECK_EQUAL(c.segments().locate(segment->data(), 1).segment, 0u);
      auto message = std::make_shared<Message>();
      message->sending = true;
      message->peer = 1;
      message->dtype = DType::kInt32;
      message->count = 100'000;
      message->data = segment->data();
      c.control().rank(0).segments[0].fd = -1;
      lane.submit(message);
      try {
        lane.wait(*message, {});
      } catch (const PeerFailedError& error) {
        told += error.rank == 1 && error.cause.find("cannot open the shared memory") != std::string::npos;
      }
      return;
    }
    CHECK_THROWS(lane.wait(*start(lane, false, 0, 0, values), {}), PeerMemoryError);
  });
  CHECK_EQUAL(told.load(), 1);
}

}  // namespace

int main() {
  const auto seed = static_cast<unsigned>(fresh_random()());
  for (int world_size : {2, 3, 5}) random_exchanges(world_size, seed);
  a_message_needs_no_waiter();
  two_waiters_of_one_rank();
  many_small_ones_back_and_forth();
  deadlines_and_interrupts_break_the_lane();
  who_left_is_named();
  for (int world_size : {2, 4, 5}) a_failure_is_told(world_size);
  an_error_of_one_rank_is_told();
  disagreement_is_named_on_both(10);
  disagreement_is_named_on_both(100'000);
}
