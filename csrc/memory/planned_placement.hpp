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
#include <unordered_map>
#include <vector>

#include "memory/planned_step.hpp"

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
  PlannedPlacement(Pool& pool, std::uint64_t most_divergences) : pool_(pool), most_divergences_(most_divergences) {}
  ~PlannedPlacement();
  PlannedPlacement(const PlannedPlacement&) = delete;
  PlannedPlacement& operator=(const PlannedPlacement&) = delete;

  // Marks of one thread. The end of the second equal step plans, which may take a second. Throw InvalidArgument for a
  // step within a step, or an end without a beginning.
  void begin_step();
  void end_step();

  // For the pool's calls of the same names; `num_bytes`: asked for, `request`: rounded up.
  // The place of a request, or nullptr: then best fit has it, and placed() is told.
  void* allocate(std::uint64_t num_bytes, const Request& request, Stream stream);
  void placed(const void* data, const Request& request, Stream stream);
  // Whether `data` lies in an arena. Throws InvalidArgument if it does and no live block begins there.
  bool use(const void* data, StreamId user, Stream stream);
  struct Freed {
    std::uint64_t num_bytes, rounded;
  };
  // What a planned block had; nullopt for a block of best fit. Throws like use().
  std::optional<Freed> free(const void* data);

  struct Found {
    std::uint64_t rounded;
    StreamId stream;
    const void* arena;  // in which it lies
  };
  // A live planned block; nullopt if none begins there.
  std::optional<Found> find(const void* data);

  // Gives the arenas back to the pool if no block in them is alive; whether it did.
  bool give_back();
  PlanStatistics statistics();

 private:
  using Reason = Divergence::Reason;
  static constexpr std::size_t kLatest = 16;          // divergences kept
  static constexpr std::uint64_t kAttempts = 8;       // steps recorded before a pause
  static constexpr std::uint64_t kLongestPause = 64;  // steps
  static constexpr std::uint32_t kDead = ~std::uint32_t{0};

  class Guard;
  class Unguarded;
  struct Live {
    std::uint32_t request = kDead;  // of the plan: who is alive at this place
    std::uint64_t num_bytes = 0;    // asked for
  };
  struct Shared {  // a planned block that other streams use
    std::vector<StreamId> users;
    std::vector<Event> events;
    bool freed, recorded;
  };

  bool takes_part(Stream stream) const;
  bool due(const Request& request);
  void diverge(Reason reason, const Request& expected, const Request& got);
  bool take_arenas(Guard& guard);
  void return_arenas();
  PlannedStep::PlaceNumber live_place(const void* data, const char* what, bool* inside) const;
  void bury(PlannedStep::PlaceNumber place);
  void record_events(Shared& shared);
  void drain();
  void pause();
  void plan(Guard& guard);
  void after_step();

  Pool& pool_;
  const std::uint64_t most_divergences_;

  std::atomic_flag busy_ = ATOMIC_FLAG_INIT;  // guards all below
  PlanState state_ = PlanState::kWaiting;
  bool in_step_ = false;
  bool following_ = false;  // the plan, in this step: every request so far was the plan's
  std::size_t cursor_ = 0;  // the next request
  ThreadNumber marker_ = 0;
  Recording recording_;
  std::uint64_t attempts_ = 0, pause_ = 0, next_pause_ = 1;
  std::unique_ptr<PlannedStep> step_;
  std::vector<Live> live_;  // by place
  std::unordered_map<PlannedStep::PlaceNumber, Shared> shared_;
  std::uint64_t live_blocks_ = 0, live_within_ = 0, live_bytes_ = 0;  // within: not to live over the end of a step
  bool taken_ = false;                                                // the arenas
  std::uint64_t steps_ = 0, planned_steps_ = 0, requests_ = 0, planned_requests_ = 0, bytes_ = 0, planned_bytes_ = 0;
  std::uint64_t divergences_ = 0, in_a_row_ = 0;
  std::deque<Divergence> latest_;
};

}  // namespace pyparallel::memory
