// Steps that repeat, more or less, on a pool over a StreamWorld: a program of requests and frees, run beside a list of
// what is live.
#pragma once
#include <algorithm>
#include <map>
#include <memory>
#include <vector>

#include "check.hpp"
#include "core/error.hpp"
#include "memory/pool.hpp"
#include "memory/simulated_upstream.hpp"

namespace steps {

using namespace pyparallel;
using namespace pyparallel::memory;

constexpr std::uint64_t kStreams = 3;

// A step as a program: block `block` is asked for, or freed; `late`: the block of the step before.
struct Operation {
  enum class Kind { kAllocate, kFree, kFreeLast } kind;
  std::size_t block;
};
struct Program {
  std::vector<std::uint64_t> sizes, streams;
  std::vector<Operation> operations;
};

// Nested and crossing lifetimes; every fifth block lives into the next step.
inline Program draw_program(std::mt19937_64& random, std::size_t blocks, std::uint64_t streams) {
  Program program;
  std::vector<std::pair<std::size_t, Operation>> timed;
  for (std::size_t block = 0; block < blocks; ++block) {
    program.sizes.push_back(1 + random() % (std::uint64_t{1} << (random() % 17)));
    program.streams.push_back(1 + random() % streams);
    timed.push_back({10 * block, {Operation::Kind::kAllocate, block}});
    if (random() % 5 == 0)
      timed.push_back({random() % (10 * block + 1), {Operation::Kind::kFreeLast, block}});
    else
      timed.push_back({10 * block + 1 + random() % (10 * (blocks - block)), {Operation::Kind::kFree, block}});
  }
  std::stable_sort(timed.begin(), timed.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  for (const auto& [time, operation] : timed) program.operations.push_back(operation);
  return program;
}

// A pool beside a list of what is live in it.
class History {
 public:
  History(std::uint64_t capacity, std::mt19937_64& random) : random_(random) {
    pool = std::make_unique<Pool>(std::make_unique<SimulatedUpstream>(world, capacity));
    pool->plan_steps(3);
  }

  void* allocate(std::uint64_t num_bytes, std::uint64_t stream) {
    auto* const data = static_cast<char*>(pool->allocate(num_bytes, stream));
    const auto after = live_.lower_bound(data);
    if (after != live_.end()) CHECK_EQUAL(data + num_bytes <= after->first, true);
    if (after != live_.begin()) CHECK_EQUAL(std::prev(after)->first + std::prev(after)->second.num_bytes <= data, true);
    world.touch(stream, data, num_bytes, "allocation of " + std::to_string(num_bytes));
    live_[data] = {num_bytes, stream};
    requested_ += num_bytes;
    return data;
  }
  // Another stream works on the block, after the last that has.
  void use(void* data) {
    Block& block = live_.at(static_cast<char*>(data));
    const std::uint64_t stream = 1 + random_() % kStreams;
    world.order(stream, block.last_user);
    block.last_user = stream;
    pool->use(data, stream);
    world.touch(stream, static_cast<char*>(data), block.num_bytes, "use by another stream");
  }
  void free(void* data) {
    pool->free(data);
    requested_ -= live_.at(static_cast<char*>(data)).num_bytes;
    live_.erase(static_cast<char*>(data));
    if (random_() % 8 == 0 && live_.count(static_cast<char*>(data)) == 0)
      CHECK_THROWS(pool->free(data), InvalidArgument);
  }
  void check_numbers() {
    const Statistics s = pool->statistics();
    CHECK_EQUAL(s.requested, requested_);
    CHECK_EQUAL(s.allocations - s.frees, static_cast<std::uint64_t>(live_.size()));
    CHECK_EQUAL(s.live <= s.reserved, true);
  }
  PlanStatistics plan() { return pool->planned()->statistics(); }
  void free_all() {
    while (!live_.empty()) free(live_.begin()->first);
    for (std::uint64_t stream = 1; stream <= kStreams; ++stream) world.finish_stream(stream);
  }

  StreamWorld world;
  std::unique_ptr<Pool> pool;

 private:
  struct Block {
    std::uint64_t num_bytes, last_user;
  };
  std::mt19937_64& random_;
  std::map<char*, Block> live_;
  std::uint64_t requested_ = 0;
};

// Runs a program step by step. `disorder`: how many of a thousand operations are not as the program says.
class Runner {
 public:
  Runner(History& history, const Program& program, std::mt19937_64& random)
      : history_(history), program_(program), random_(random), own_(program.sizes.size()), last_(own_) {}

  void step(std::uint64_t disorder, bool marked = true) {
    if (marked) history_.pool->planned()->begin_step();
    last_.swap(own_);
    for (void*& left : own_) release(left);  // what was not freed in a whole step
    for (const Operation& operation : program_.operations) {
      const bool disturbed = random_() % 1000 < disorder;
      void*& data = (operation.kind == Operation::Kind::kFreeLast ? last_ : own_)[operation.block];
      if (disturbed) disturb(data, operation);
      if (operation.kind != Operation::Kind::kAllocate) {
        if (!disturbed || random_() % 2 == 0) release(data);  // or much later
      } else if (data == nullptr && (!disturbed || random_() % 2 == 0)) {
        data = history_.allocate(program_.sizes[operation.block], program_.streams[operation.block]);
      }
    }
    if (marked) history_.pool->planned()->end_step();
    history_.check_numbers();
  }
  void release(void*& data) {
    if (data != nullptr) history_.free(data);
    data = nullptr;
  }

 private:
  void disturb(void*& data, const Operation& operation) {
    const std::uint64_t stream = 1 + random_() % kStreams;
    void*& other = own_[random_() % own_.size()];
    switch (random_() % 6) {
      case 0:  // a request that the plan does not have
        kept_.push_back(history_.allocate(1 + random_() % 50'000, stream));
        break;
      case 1:  // of another size
        if (data == nullptr && operation.kind == Operation::Kind::kAllocate)
          data = history_.allocate(program_.sizes[operation.block] + 512, program_.streams[operation.block]);
        break;
      case 2:
        if (other != nullptr) history_.use(other);
        break;
      case 3:  // early
        release(other);
        break;
      case 4:
        history_.world.finish_stream(stream);
        break;
      default:
        if (!kept_.empty()) {
          release(kept_.back());
          kept_.pop_back();
        }
    }
  }

  History& history_;
  const Program& program_;
  std::mt19937_64& random_;
  std::vector<void*> own_, last_, kept_;  // by block, of this step and the last; and what the program knows nothing of
};

}  // namespace steps
