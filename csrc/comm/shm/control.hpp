// The layout of a communicator's control segment: what each rank publishes, its slots and its bounce buffers.
//
//   ControlBlock | RankBlock x world_size | slots: world_size x 2 x kSlotBytes | bounce: world_size x 2 x kPieceBytes
//
// Every word is written by one rank (its owner) and read by all, but for `first_lost` and the inboxes. Fresh segments
// are zero, which is the initial value of every field.
#pragma once
#include <cstdint>

#include "comm/shm/combine.hpp"
#include "comm/shm/flag.hpp"
#include "comm/shm/flight_record.hpp"
#include "comm/shm/inbox.hpp"
#include "core/dtype.hpp"

namespace pyparallel::shm {

inline constexpr std::uint64_t kMagic = 0x7079706172616c33;   // "pyparal3": the layout's version
inline constexpr std::uint64_t kSlotBytes = 128 << 10;        // up to here a whole operand may go through its slot
inline constexpr std::uint64_t kPieceBytes = 256 << 10;       // larger private operands pass in pieces of this size
inline constexpr std::uint32_t kMaxSegments = 512;            // live shared allocations of one rank
inline constexpr std::uint64_t kUnequal = ~std::uint64_t{0};  // Operation::count of an all_to_all with a table of sizes
inline constexpr int kMaxRanks = kSlotBytes / (2 * sizeof(std::uint64_t));  // whose sizes fit a slot

enum class Kind : std::uint8_t {
  kAllReduce,
  kBroadcast,
  kAllGather,
  kReduceScatter,
  kBarrier,
  kReduce,
  kGather,
  kScatter,
  kAllToAll,
};

// How a reduction travels: straight between all ranks, or around a ring (see ring.cpp).
enum class Algorithm : std::uint8_t { kDirect, kRing };

const char* name(Kind kind);
const char* name(Algorithm algorithm);

// What a rank says it is doing. All but the buffer's place and the factor must be the same on all ranks.
struct Operation {
  std::uint64_t count;  // elements: of the tensor, or of one rank's part where the operation has parts
  Kind kind;
  DType dtype;
  Reduction reduction;
  Algorithm algorithm;
  std::uint32_t root;
  std::uint32_t segment;  // where this rank's input lies: an index in its segment table or kPrivate
  std::uint32_t generation;
  std::uint64_t offset;  // in bytes within the segment
  double factor;         // what this rank's values are multiplied by in a premultiplied sum
};

struct SegmentEntry {
  std::atomic<std::int32_t> fd;           // of the owner's process
  std::atomic<std::uint32_t> generation;  // odd while the entry is in use
};

// What a rank says before it gives up.
struct Failure {
  std::atomic<std::uint32_t> failed;  // 1 once the texts are there
  char operation[160];
  char cause[608];
};

struct RankBlock {
  alignas(128) Flag posted;  // operations begun; operations[posted & 1] says which
  Operation operations[2];
  std::atomic<std::uint32_t> freed;   // shared allocations given back so far
  alignas(128) Flag filled;           // pieces this rank has put in its bounce buffer
  alignas(128) Flag reduced;          // pieces whose own part this rank has reduced there
  alignas(128) Flag drained;          // pieces this rank no longer needs from anyone
  alignas(128) Flag finished;         // operations on shared buffers this rank is through with
  alignas(128) Flag joined;           // 1 when the rank has come
  std::atomic<std::uint32_t> closed;  // 1 when the rank left in good order
  SegmentEntry segments[kMaxSegments];
  Failure failure;
  alignas(128) FlightLog flights;
  alignas(128) Inbox inbox;
};

struct ControlBlock {
  std::uint64_t magic;
  std::uint32_t world_size;
  // Rank + 1 of the first peer found dead, kSaidSo added if it failed by its own account: all name the same one.
  std::atomic<std::uint32_t> first_lost;
  static constexpr std::uint32_t kSaidSo = 1u << 31;

  RankBlock& rank(int r) { return reinterpret_cast<RankBlock*>(this + 1)[r]; }
  char* slot(int r, std::uint32_t sequence) {
    return tail() + (2 * static_cast<std::uint64_t>(r) + (sequence & 1)) * kSlotBytes;
  }
  char* bounce(int r, std::uint32_t piece) {
    return tail() + 2 * world_size * kSlotBytes + (2 * static_cast<std::uint64_t>(r) + (piece & 1)) * kPieceBytes;
  }
  // Elements that rank r sends to and expects from a peer in an all_to_all. Unequal ones stand at the beginning of its
  // slot: first what it sends, then what it expects.
  std::uint64_t input_size(int r, std::uint32_t sequence, int peer) { return size(r, sequence, peer); }
  std::uint64_t output_size(int r, std::uint32_t sequence, int peer) {
    return size(r, sequence, static_cast<int>(world_size) + peer);
  }
  static std::uint64_t num_bytes(std::uint64_t world_size) {
    return sizeof(ControlBlock) + world_size * (sizeof(RankBlock) + 2 * kSlotBytes + 2 * kPieceBytes);
  }

 private:
  std::uint64_t size(int r, std::uint32_t sequence, int index) {
    const std::uint64_t count = rank(r).operations[sequence & 1].count;
    return count != kUnequal ? count : reinterpret_cast<const std::uint64_t*>(slot(r, sequence))[index];
  }
  char* tail() { return reinterpret_cast<char*>(&rank(static_cast<int>(world_size))); }
  alignas(128) char padding_[1];
};
static_assert(sizeof(ControlBlock) % 128 == 0 && sizeof(RankBlock) % 128 == 0);

}  // namespace pyparallel::shm
