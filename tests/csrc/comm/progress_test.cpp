// The queue: issue order with and without the progress thread, waits in any order, errors that stay, closing.
#include "comm/progress.hpp"

#include <algorithm>

#include "check.hpp"
#include "comm/world.hpp"
#include "core/error.hpp"

using namespace pyparallel;
using shm::Collective;
using shm::Communicator;
using shm::Kind;
using shm::Reduction;

namespace {

Collective sum_of(std::vector<float>& values) {
  char* const data = reinterpret_cast<char*>(values.data());
  return {Kind::kAllReduce, DType::kFloat32, Reduction::kSum, values.size(), 0, data, data};
}

// Small and large operands mixed, waited for in an order that differs per rank.
void works_complete_in_issue_order(int world_size, bool background) {
  with_world(world_size, [&](Communicator& c) {
    ProgressQueue queue(c);
    std::mt19937 random(static_cast<unsigned>(c.rank()));
    for (int round = 0; round < 6; ++round) {
      std::vector<std::vector<float>> operands;
      for (std::size_t i = 0; i < 12; ++i)
        operands.emplace_back(i % 3 == 0 ? 30000 : 10 + i, static_cast<float>(c.rank() + 1));
      std::vector<std::shared_ptr<Work>> works;
      for (auto& operand : operands) works.push_back(queue.submit(sum_of(operand), background));
      std::vector<std::size_t> order(works.size());
      for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
      std::shuffle(order.begin(), order.end(), random);
      for (std::size_t i : order) queue.wait(*works[i], {});
      const float expected = static_cast<float>(world_size * (world_size + 1)) / 2;
      for (std::size_t i = 0; i < operands.size(); ++i) {
        for (float value : operands[i]) CHECK_EQUAL(value, expected);
        CHECK_EQUAL(works[i]->submitted_ns <= works[i]->ended_ns.load(), true);
        CHECK_EQUAL(works[i]->waited_ns <= works[i]->ended_ns - works[i]->started_ns + 1000000, true);
      }
    }
  });
}

void background_needs_no_wait() {
  with_world(2, [](Communicator& c) {
    ProgressQueue queue(c);
    std::vector<float> operand(100000, 1.0f);
    const auto work = queue.submit(sum_of(operand), true);
    while (!work->completed.load(std::memory_order_acquire)) std::this_thread::yield();
    CHECK_EQUAL(operand[99999], 2.0f);
  });
}

void the_first_error_stays() {
  with_world(2, [](Communicator& c) {
    ProgressQueue queue(c);
    std::vector<float> operand(c.rank() == 0 ? 10 : 11, 1.0f);
    const auto first = queue.submit(sum_of(operand), false);
    CHECK_THROWS(queue.wait(*first, {}), CollectiveMismatchError);
    CHECK_THROWS(queue.wait(*first, {}), CollectiveMismatchError);
    CHECK_THROWS(queue.submit(sum_of(operand), false), CollectiveMismatchError);
  });
}

void closing_ends_a_wait_in_the_background() {
  std::atomic<bool> done{false};
  with_world(2, [&](Communicator& c) {
    if (c.rank() == 1) {
      while (!done) std::this_thread::yield();
      return;
    }
    ProgressQueue queue(c);
    std::vector<float> operand(100000, 1.0f);
    const auto work = queue.submit(sum_of(operand), true);
    queue.close();
    CHECK_THROWS(queue.submit(sum_of(operand), true), std::exception);
    done = true;
  });
}

// Runs body(communicator, another of the same ranks) for every rank of a world of two.
void with_two_communicators(const std::function<void(Communicator&, Communicator&)>& body) {
  const auto control = Communicator::create_control(2);
  with_world(2, [&](Communicator& c) {
    Communicator ahead(control, c.rank(), {getpid(), getpid()}, 60.0);
    ahead.join(kPatience);
    ahead.go_before(c);
    body(c, ahead);
    run(c, {});  // neither leaves before the other is through
    ahead.leave();
  });
}

// Rank 1 has only posted what goes first, so rank 0 is in the middle of it: there the other communicator must not move.
void what_goes_first_holds_up_the_other() {
  constexpr std::size_t kCount = 1 << 20;
  std::atomic<bool> go_on{false}, ended[2] = {false, false};
  with_two_communicators([&](Communicator& c, Communicator& ahead) {
    std::vector<float> first(kCount, 1.0f), second(kCount, 2.0f);
    ahead.post(sum_of(first));
    std::thread runner([&] {
      while (c.rank() == 1 && !go_on) std::this_thread::yield();
      ahead.complete(sum_of(first), kPatience);
    });
    while (ahead.control().rank(0).filled.value.load() == 0) std::this_thread::yield();
    ProgressQueue queue(c);
    const auto work = queue.submit(sum_of(second), true);
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    ended[c.rank()] = work->completed.load();
    if (c.rank() == 0) go_on = true;
    queue.wait(*work, {});
    runner.join();
    CHECK_EQUAL(first[kCount - 1], 2.0f);
    CHECK_EQUAL(second[kCount - 1], 4.0f);
  });
  CHECK_EQUAL(ended[0].load(), false);
}

// Both at once at random, shared operands among them: all come to an end, and right.
void both_make_progress() {
  with_two_communicators([&](Communicator& c, Communicator& ahead) {
    ProgressQueue queue(c), before(ahead);
    std::mt19937 random(static_cast<unsigned>(c.rank()));
    std::vector<std::pair<std::unique_ptr<Operand>, std::shared_ptr<Work>>> works;
    for (int i = 0; i < 40; ++i) {
      const std::size_t count = i % 4 == 0 ? 200'000 : 100 + static_cast<std::size_t>(i);
      auto operand = std::make_unique<Operand>(count, i % 5 == 0);
      std::fill(operand->data(), operand->data() + count, 1.0f);
      char* const data = reinterpret_cast<char*>(operand->data());
      const Collective sum{Kind::kAllReduce, DType::kFloat32, Reduction::kSum, count, 0, data, data};
      works.emplace_back(std::move(operand), (i % 3 == 0 ? before : queue).submit(sum, true));
    }
    std::vector<std::size_t> order(works.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::shuffle(order.begin(), order.end(), random);
    for (std::size_t i : order) (i % 3 == 0 ? before : queue).wait(*works[i].second, {});
    for (const auto& [operand, work] : works) CHECK_EQUAL((*operand)[operand->size() - 1], 2.0f);
  });
}

}  // namespace

int main() {
  what_goes_first_holds_up_the_other();
  both_make_progress();
  for (bool background : {false, true})
    for (int world_size : {1, 2, 3}) works_complete_in_issue_order(world_size, background);
  background_needs_no_wait();
  the_first_error_stays();
  closing_ends_a_wait_in_the_background();
}
