// Planned placement: training repeats itself, so a step that was recorded twice is placed beforehand, as one.
//
//   waiting -> recording -> planning -> ready -> taking -> serving    (divergence: best fit until the step ends)
//      ^                                  ^        arenas  |    |
//      |                                  +---- given back +    v some divergences in a row
//      +------------------------------------------------- retiring (until no planned block is alive)
//
// While it serves, request k of a step must have the size and stream of request k of the plan, and its blockers
// (planned_step.hpp) must be dead. Then its place is free, whatever happened before:
//   1. A step begins to be served only if each planned block alive is one that the plan lets live over the end of a
//      step. Those are alive at one time of the plan, so they do not overlap.
//   2. Requests are served in the order of the plan without a gap from the first one, or from the first after the
//      arenas were taken, empty. So the last planned block on any byte is among the blockers, or its step was not
//      served: then the byte is free, or belongs to a block of 1, which is the last on that byte in the plan.
// Frees may come at any time, from any thread: an early one changes nothing, a late one is a divergence if a block that
// is due needs the bytes, and nothing otherwise. Blocks that another stream uses are not planned; should one come to be
// used so while it is served, it stays until that stream's events have passed.
//
// Threads whose requests are no part of the plan are served by best fit, unverified, and so is what is asked for
// between steps and what a graph captures. Everything is guarded by a flag that is held for a few instructions.
#pragma once
#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "memory/planned_arenas.hpp"

namespace pyparallel::memory {

class Pool;

enum class PlanState : std::uint8_t { kWaiting, kRecording, kPlanning, kReady, kTaking, kServing, kRetiring };

struct Divergence {
  enum class Reason : std::uint8_t {
    kOtherRequest,  // than the plan has there
    kStillAlive,    // a block on the bytes of the one that is due, or over the end of a step
    kTooMany,       // requests
    kTooFew,
    kNoMemory,  // for the arenas, or they were given back for a request that found no other
  };
  Reason reason;
  std::uint64_t step, request;  // from 0, since plan_steps()
  Request expected, got;        // kStillAlive: got is the block still alive
};

struct PlanStatistics {
  PlanState state;
  std::uint64_t steps, planned_steps;        // planned: served to the end
  std::uint64_t requests, planned_requests;  // of steps with a plan; planned: served from the arenas
  std::uint64_t bytes, planned_bytes;        // likewise
  std::uint64_t divergences;
  std::vector<Divergence> latest;                      // divergences
  std::uint64_t plan_bytes, plan_lower_bound;          // of the arenas; the most planned bytes alive at once
  std::uint64_t arena_bytes, live_bytes, live_blocks;  // taken now; of them in use
};

class PlannedPlacement {
 public:
  // `most_divergences`: after so many diverged steps in a row the plan is dropped and a new one recorded.
  PlannedPlacement(Pool& pool, std::uint64_t most_divergences)
      : pool_(pool), most_divergences_(most_divergences), arenas_(pool) {}
  PlannedPlacement(const PlannedPlacement&) = delete;
  PlannedPlacement& operator=(const PlannedPlacement&) = delete;

  // Marks of one thread. The end of the second equal step plans, which may take a second. Throw InvalidArgument for a
  // step within a step, or an end without a beginning.
  void begin_step();
  void end_step();

  // For the pool's calls of the same names.
  // The place of a request, or nullptr: then best fit has it, and placed() is told.
  void* allocate(const Request& request, Stream stream, const PlannedArenas::Asked& asked);
  void placed(const void* data, const Request& request, Stream stream);
  // As PlannedArenas has them.
  bool use(const void* data, StreamId user, Stream stream);
  std::optional<PlannedArenas::Freed> free(const void* data);
  std::optional<PlannedArenas::Found> find(const void* data);
  // Calls `look(arenas)` while nothing is placed or freed there. It may take the pool's lock.
  template <class Look>
  auto look(const Look& look) {
    const Guard guard(*this);
    return look(static_cast<const PlannedArenas&>(arenas_));
  }

  // Gives the arenas back to the pool if no block in them is alive; whether it did.
  bool give_back();
  PlanStatistics statistics();

 private:
  using Reason = Divergence::Reason;
  static constexpr std::size_t kLatest = 16;          // divergences kept
  static constexpr std::uint64_t kAttempts = 8;       // steps recorded before a pause
  static constexpr std::uint64_t kLongestPause = 64;  // steps

  // The flag, held.
  class Guard {
   public:
    explicit Guard(PlannedPlacement& owner) : owner_(owner) { lock(); }
    ~Guard() { unlock(); }
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;
    void lock() const {
      while (owner_.busy_.test_and_set(std::memory_order_acquire)) [[unlikely]]
        yield();
    }
    void unlock() const { owner_.busy_.clear(std::memory_order_release); }

   private:
    PlannedPlacement& owner_;
  };
  class Unguarded;

  static void yield();
  bool takes_part(Stream stream) const;
  bool due(const Request& request);
  void diverge(Reason reason, const Request& expected, const Request& got);
  bool take_arenas(Guard& guard);
  void return_arenas();
  void set_state(PlanState state);
  void pause();
  void plan(Guard& guard);
  void after_step();

  Pool& pool_;
  const std::uint64_t most_divergences_;

  std::atomic_flag busy_ = ATOMIC_FLAG_INIT;  // guards all below
  std::atomic<bool> records_{false};          // whether state_ is kRecording; also read without the flag
  PlanState state_ = PlanState::kWaiting;
  bool in_step_ = false;
  bool following_ = false;  // the plan, in this step: every request so far was the plan's
  std::size_t cursor_ = 0;  // the next request
  ThreadNumber marker_ = 0;
  Recording recording_;
  std::uint64_t attempts_ = 0, pause_ = 0, next_pause_ = 1;
  PlannedArenas arenas_;
  std::uint64_t steps_ = 0, planned_steps_ = 0, requests_ = 0, planned_requests_ = 0, bytes_ = 0, planned_bytes_ = 0;
  std::uint64_t divergences_ = 0, in_a_row_ = 0;
  std::deque<Divergence> latest_;
};

}  // namespace pyparallel::memory
