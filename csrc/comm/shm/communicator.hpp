// Collectives between processes of one host through shared memory. Results are combined in rank order, so they are the
// same bits on every rank and in every run.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "comm/shm/collective.hpp"
#include "comm/shm/control.hpp"
#include "comm/shm/peers.hpp"
#include "comm/shm/precedence.hpp"
#include "core/shared_segment.hpp"

namespace pyparallel::shm {

// How to wait, chosen by whoever runs the collective.
struct Patience {
  std::int64_t yield_ns = 100'000;         // pause and yield this long before sleeping, if every rank has a core
  std::function<bool()> interrupted = {};  // asked every few dozen milliseconds of sleep: true ends it with Interrupted
};

// The caller asked to stop waiting (a signal, or the communicator is being closed).
struct Interrupted : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Routes;  // of moves.cpp

class Communicator {
 public:
  static constexpr std::int64_t kSliceNs = 20'000'000;  // a sleeping rank looks after its peers this often

  // The segment that all ranks share: rank 0 creates it, the others open it.
  static std::shared_ptr<SharedSegment> create_control(int world_size);
  // Throws InvalidArgument if the segment was made for another number of ranks or by another version.
  // `processes`: the process id of every rank.
  Communicator(std::shared_ptr<SharedSegment> control, int rank, const std::vector<int>& processes,
               double timeout_seconds);

  // Says that this rank is here and waits until all are.
  void join(const Patience& patience);
  // Says that this rank leaves in good order: a peer that waits for it from now on gets PeerLostError at once.
  void leave();
  // The collectives of this communicator, which has had none yet, go before the other's and before all that the other
  // goes before. They must run in the background on every rank: the other's wait for them.
  void go_before(Communicator& other);
  bool goes_first() const { return !precedence_.empty(); }
  // Ends a complete() that waits in another thread with Interrupted.
  void abandon() { abandoned_.store(true); }

  // A collective in two halves: post() copies a small operand to its slot and tells the peers, without waiting;
  // complete() does the rest. At most one collective may be posted at a time, in the same order on all ranks.
  void post(const Collective& collective);
  // `flight`: the number of the collective in the flight record.
  void complete(const Collective& collective, const Patience& patience, std::uint64_t flight = 0);

  // The call in words, with its number.
  std::string describe(const Collective& collective) const;

  // Whether the operand is small enough to be handed over whole in post().
  bool through_slot(const Collective& collective) const;

  SegmentTable& segments() { return segments_; }

  int rank() const { return rank_; }
  int world_size() const { return world_size_; }
  std::int64_t timeout_ns() const { return timeout_ns_; }
  bool oversubscribed() const { return oversubscribed_; }
  ControlBlock& control() { return control_; }
  Liveness& liveness() { return *liveness_; }
  std::shared_ptr<Liveness> peers() const { return liveness_; }
  const std::vector<int>& processes() const { return processes_; }
  FlightLog& flights() { return control_.rank(rank_).flights; }
  std::uint64_t log_flight(const Collective& c, std::uint32_t sequence) {
    return flights().submit(static_cast<std::uint8_t>(c.kind), c.dtype, c.count, c.root, sequence);
  }
  // Tells the peers of an error that only this rank knows of, so that they need not wait for their deadlines.
  void tell_peers(const std::exception_ptr& error, const std::string& doing);
  bool has_left(int r) { return control_.rank(r).closed.load(std::memory_order_acquire) != 0; }
  std::int64_t waited_ns() const { return waited_ns_; }  // spent waiting for peers so far

 private:
  void run(const Collective& c);
  void give_way() const {
    if (const Precedence* const ahead = ahead_.load(std::memory_order_acquire)) ahead->give_way();
  }
  void await(Flag RankBlock::* flag, int rank, std::uint32_t target);
  void await_all(Flag RankBlock::* flag, std::uint32_t target);
  const Operation& operation(int r) { return control_.rank(r).operations[sequence_ & 1]; }
  bool all_shared();
  std::uint64_t slot_header(std::uint64_t count) const;  // bytes before the operand in a slot
  // Every rank reads all slots, so the more ranks there are, the sooner it pays to share the work.
  bool fits_slot(std::uint64_t bytes, std::uint64_t count) const {
    const std::uint64_t most = 2 * kSlotBytes / static_cast<std::uint64_t>(world_size_);
    return slot_header(count) + bytes <= std::clamp(most, kSlotBytes / 4, kSlotBytes);
  }

  // reductions.cpp
  void all_reduce(const Collective& c);
  void reduce(const Collective& c);
  void reduce_scatter(const Collective& c);
  void all_reduce_shared(const Collective& c);
  void reduce_one_phase(const Collective& c, bool wanted);
  void all_reduce_two_phase(const Collective& c);
  // Who combines the same values: this rank alone, or all ranks, of which each then measures its share.
  enum class Combined { kHere, kEverywhere };
  void combine_sources(char* const* targets, int target_count, std::uint64_t bytes, const Collective& c,
                       Combined where);
  void measure(const Collective& c, const char* values, std::uint64_t bytes);

  // moves.cpp
  void move(const Collective& c);
  void move_in_pieces(const Collective& c, const Routes& routes, std::uint64_t longest, bool gives);

  // ring.cpp
  void ring(const Collective& c);
  void ring_step(const Collective& c, int step, std::uint64_t at, std::uint64_t begin, std::uint64_t bytes,
                 const char* taken, char* given);

  // pieces.hpp
  template <typename Fill, typename Drain>
  void exchange(std::uint64_t pieces, bool gives, const Fill& fill, const Drain& drain);
  void pass_pieces(std::uint32_t pieces);
  void finish_shared();

  std::shared_ptr<SharedSegment> segment_;
  ControlBlock& control_;
  int rank_, world_size_;
  std::vector<int> processes_;
  std::int64_t timeout_ns_;
  bool oversubscribed_;  // more ranks than cores: whoever yields keeps a core from the rank it waits for
  std::shared_ptr<Liveness> liveness_;
  SegmentTable segments_;
  PeerMemory peer_memory_;

  std::uint32_t sequence_ = 0;  // operations posted
  std::uint32_t piece_ = 0;     // pieces exchanged, the same number on all ranks
  std::uint32_t finished_ = 0;  // operations on shared buffers
  std::int64_t waited_ns_ = 0;
  std::vector<std::shared_ptr<Precedence>>
      precedence_;                                 // over other communicators, begun and ended with each collective
  std::shared_ptr<Precedence> yields_to_;          // what goes before this one
  std::atomic<const Precedence*> ahead_{nullptr};  // likewise, once there is something
  const Patience* patience_ = nullptr;             // of the collective being completed
  const Collective* current_ = nullptr;            // likewise
  std::int64_t deadline_ = 0;                      // likewise
  std::uint64_t flight_ = 0;                       // likewise
  std::atomic<bool> abandoned_{false};
  // What a rank gives this one in a move; without a source it comes through the bounce buffer.
  struct Parcel {
    const char* source;
    char* target;
    std::uint64_t bytes;
  };
  std::vector<Parcel> incoming_;  // scratch: one per rank
  std::vector<char*> buffers_;    // likewise: the sources of a reduction
  std::vector<double> factors_;   // likewise: of a premultiplied sum
  double squares_[2] = {};        // of the collective being completed, so far
};

}  // namespace pyparallel::shm
