// The arenas of a plan while it is served, one per stream, and who is alive in them.
//
//   arena   | live | gap | live | pending | gap |      gap: kept for the plan, though nobody has it now
//
// Not synchronised: guarded by the flag of the placement (planned_placement.hpp), which is taken before the pool's
// lock.
#pragma once
#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "memory/listing.hpp"
#include "memory/planned_step.hpp"

namespace pyparallel::memory {

class Pool;

class PlannedArenas {
 public:
  static constexpr std::uint32_t kDead = ~std::uint32_t{0};
  struct Asked {
    std::uint64_t num_bytes;
    CallSite site;
    std::atomic<std::uint64_t>* observed;  // counts the allocations of a pool that is observed, or nullptr
  };
  struct Freed {
    std::uint64_t num_bytes, rounded;  // num_bytes: asked for
  };
  struct Found {
    std::uint64_t rounded;
    StreamId stream;
    const void* arena;  // in which it lies
  };

  explicit PlannedArenas(Pool& pool) : pool_(pool) {}
  ~PlannedArenas();
  PlannedArenas(const PlannedArenas&) = delete;
  PlannedArenas& operator=(const PlannedArenas&) = delete;

  // Another plan, or none. Nothing is taken.
  void set_step(std::unique_ptr<PlannedStep> step);
  PlannedStep* step() const { return step_.get(); }
  // Takes memory from the pool; throws OutOfMemoryError, and then has none. What the pool keeps unused goes first, so
  // that the arenas take its place. The only call without the flag: nobody looks at arenas that are not taken.
  void allocate();
  // From here on blocks are placed.
  void open();
  // Gives the memory back. Nothing lives there.
  void release();
  bool taken() const { return taken_; }

  // A block that must be dead before request number `request`, and is not: its request; kDead if there is none.
  std::uint32_t blocker(std::size_t request);
  // The place of that request, from now on alive.
  void* place(std::size_t request, const Asked& asked);
  // A block that the plan does not let live over the end of a step, and that is alive: its request, or kDead.
  std::uint32_t left_over() const;
  // Whether `data` lies in an arena. Throws InvalidArgument if it does and no live block begins there.
  bool use(const void* data, StreamId user, Stream stream);
  // nullopt for an address in no arena. Throws like use().
  std::optional<Freed> free(const void* data);
  // The live block that begins there.
  std::optional<Found> find(const void* data) const;
  // Buries blocks that other streams have used, once those are done.
  void drain();

  std::uint64_t live_blocks() const { return live_blocks_; }  // pending ones too
  std::uint64_t live_bytes() const { return live_bytes_; }
  // The blocks of the arena that begins there, in order of address, and the gaps between them; nothing if none does.
  std::vector<ListedBlock> list(const void* arena, Stream stream) const;
  // Adds the bytes alive by call site.
  void add_sites(std::map<CallSite, std::uint64_t>& bytes_of) const;

 private:
  struct Live {
    std::uint32_t request = kDead;  // of the plan: who is alive at this place
    CallSite site = 0;
    std::uint64_t num_bytes = 0;  // asked for
    std::uint64_t serial = 0;     // as Block has it
  };
  struct Shared {  // a block that other streams use
    std::vector<StreamId> users;
    std::vector<Event> events;
    bool freed, recorded;
  };

  const PlannedStep::Planned& planned(const Live& live) const { return step_->requests()[live.request]; }
  PlannedStep::PlaceNumber live_place(const void* data, const char* call, bool* inside) const;
  bool is_freed(PlannedStep::PlaceNumber place) const;
  void bury(PlannedStep::PlaceNumber place);
  void record_events(Shared& shared);

  Pool& pool_;
  std::unique_ptr<PlannedStep> step_;
  std::vector<Live> live_;  // by place
  std::unordered_map<PlannedStep::PlaceNumber, Shared> shared_;
  std::uint64_t live_blocks_ = 0, live_within_ = 0, live_bytes_ = 0;  // within: not to live over the end of a step
  bool taken_ = false;
};

}  // namespace pyparallel::memory
