// The other ranks as processes: are they alive, and where is the memory they share.
#pragma once
#include <cstdint>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "comm/shm/control.hpp"
#include "core/shared_segment.hpp"

namespace pyparallel::shm {

// Watches the processes of all ranks through pidfds: a killed process is seen at once, reaped or not.
class Liveness {
 public:
  // `processes`: the ranks' process ids; opened now, so that none can be mistaken for a later process of the same id.
  Liveness(std::shared_ptr<SharedSegment> control, int rank, const std::vector<int>& processes);
  ~Liveness();
  Liveness(const Liveness&) = delete;
  Liveness& operator=(const Liveness&) = delete;

  // Throws PeerLostError if a rank died, PeerFailedError if one said so, PeerLostError if `awaited` closed its
  // communicator; the message ends with `doing`.
  void check(int awaited, const std::string& doing);
  // Whether no other rank will touch shared memory any more: each has closed its communicator or died.
  bool others_gone();
  // Says for all to hear that this rank has failed, once; texts are cut to what there is room for.
  void fail(const std::string& operation, const std::string& cause);
  // Why a peer's memory could not be opened: its death, which becomes visible a moment later, or `error` itself.
  std::exception_ptr explain(const std::exception_ptr& error, const std::string& doing);

 private:
  std::uint32_t first_lost();
  bool has_exited(int rank);

  std::shared_ptr<SharedSegment> segment_;
  ControlBlock& control_;  // which lies there
  int rank_;
  std::vector<int> processes_;
  std::mutex mutex_;         // one failure is told
  std::vector<int> pidfds_;  // -1 where there is nothing to watch
};

// The shared segments of this process that peers were told of, by address: whatever lies in one is used in place,
// whoever allocated it there.
class SegmentTable {
 public:
  SegmentTable(ControlBlock& control, int rank) : block_(control.rank(rank)), rank_(rank) {}

  // Where the range lies in a segment, or kPrivate. Throws InvalidArgument where there are too many segments.
  Place locate(const void* address, std::uint64_t num_bytes);
  // Likewise, into segment, generation and offset of the operation.
  void locate(const void* address, std::uint64_t num_bytes, Operation& operation);

 private:
  struct Told {
    std::uint32_t index;
    std::weak_ptr<SharedSegment> segment;  // which lives as long as somebody has memory there
    const char* data;
    std::uint64_t num_bytes;
    bool has(const char* address) const;
  };
  // Both require mutex_.
  std::map<const char*, Told>::iterator tell(const std::shared_ptr<SharedSegment>& segment);
  void forget_ended();

  RankBlock& block_;
  int rank_;
  std::mutex mutex_;
  std::map<const char*, Told> told_;  // by first address, guarded by mutex_
};

// The peers' shared allocations, mapped when an operation first names them. Used by one thread at a time.
class PeerMemory {
 public:
  PeerMemory(ControlBlock& control, const std::vector<int>& processes)
      : control_(control), processes_(processes), freed_(processes.size(), 0) {}
  // The segment of rank `r` that holds the place, which must not be private memory. Throws PeerMemoryError.
  std::shared_ptr<SharedSegment> segment(int r, const Place& place);
  // The address in this process of the buffer that rank `r` described.
  char* map(int r, const Operation& operation) {
    return segment(r, {operation.segment, operation.generation, operation.offset})->data() + operation.offset;
  }
  // Unmaps what peers have given back since the last call.
  void sweep();

 private:
  struct Mapping {
    std::uint32_t generation;
    std::shared_ptr<SharedSegment> segment;
  };
  ControlBlock& control_;
  std::vector<int> processes_;
  std::vector<std::uint32_t> freed_;
  std::map<std::pair<int, std::uint32_t>, Mapping> mappings_;  // by rank and index
};

}  // namespace pyparallel::shm
