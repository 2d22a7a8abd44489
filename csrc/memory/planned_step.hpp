// A plan in the form in which it is served: for each request of the step its place, and who must be dead before.
//
// The bytes of request k were last planned for some earlier requests, in the circle of the step: its *blockers*. If
// none of them is alive, nobody is: whoever was placed later than a blocker lies elsewhere, and whoever was placed
// earlier was found dead when the blocker was placed. Each pair of blocker and blocked touches in the plane of time and
// offset, so there are O(1) per request on average.
//
// Blocks of different streams lie in different arenas: nothing needs to order those streams.
#pragma once
#include <cstdint>
#include <vector>

#include "memory/plan.hpp"
#include "memory/planned_recording.hpp"

namespace pyparallel::memory {

class PlannedStep {
 public:
  // A distinct offset of an arena. At most one live block begins there.
  using PlaceNumber = std::uint32_t;
  static constexpr PlaceNumber kNoPlace = ~PlaceNumber{0};

  struct Planned {
    Request request;
    PlaceNumber place;                         // kNoPlace: by best fit
    std::uint32_t first_blocker, end_blocker;  // of blockers()
    char* data;                                // while the arenas are placed
    bool spans;                                // may live over the end of the step
  };
  struct Blocker {
    PlaceNumber place;
    std::uint32_t request;
  };
  struct Arena {
    StreamId stream;
    std::uint64_t num_bytes, first_unit;  // units of kAlignment, all arenas one after the other
    char* data;
  };

  explicit PlannedStep(const Period& period, std::uint64_t budget = kPlanBudget);

  // To be called when every arena has its data.
  void set_addresses();
  // The place that begins at an address; kNoPlace if none does. `inside`: whether it lies in an arena at all.
  PlaceNumber find(const void* address, bool* inside) const;

  const std::vector<Planned>& requests() const { return requests_; }
  const std::vector<Blocker>& blockers() const { return blockers_; }
  const std::vector<ThreadNumber>& threads() const { return threads_; }
  std::vector<Arena>& arenas() { return arenas_; }
  std::uint64_t num_bytes() const { return num_bytes_; }
  std::uint64_t lower_bound() const { return lower_bound_; }  // the most planned bytes alive at once, by stream
  std::size_t num_places() const { return num_places_; }
  // The request before which the fewest planned bytes are alive: there the arenas are taken.
  std::size_t valley() const { return valley_; }

 private:
  struct Slot {
    std::uint64_t unit;
    PlaceNumber place;
  };

  void place_stream(const Period& period, StreamId stream, std::uint64_t budget, std::vector<std::uint64_t>& units);
  void find_blockers(const std::vector<std::uint64_t>& units);
  void find_valley(const Period& period);
  void number_places(const std::vector<std::uint64_t>& units);
  std::size_t slot_of(std::uint64_t unit) const;

  std::vector<Planned> requests_;
  std::vector<Blocker> blockers_;
  std::vector<ThreadNumber> threads_;
  std::vector<Arena> arenas_;
  std::vector<Slot> slots_;  // a table by unit, open addressing
  std::uint64_t num_bytes_ = 0, lower_bound_ = 0;
  std::size_t num_places_ = 0, valley_ = 0;
};

}  // namespace pyparallel::memory
