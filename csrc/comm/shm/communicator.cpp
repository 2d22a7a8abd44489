// A collective's life: post, wait for all ranks, check that all mean the same, then the way that fits where the data
// lies.
#include "comm/shm/communicator.hpp"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "core/clock.hpp"
#include "core/error.hpp"
#include "core/stream_copy.hpp"

namespace pyparallel::shm {
namespace {

// From so many bytes on it is quicker to pass an operand through memory than from one core's cache to the other's: the
// writer need not fetch the lines that its peer read last.
constexpr std::uint64_t kLeastStreamed = 2048;

// Whether this rank's input is for the others to read.
bool gives(const Collective& c, int rank) {
  if (c.kind == Kind::kBroadcast || c.kind == Kind::kScatter) return c.root == rank;
  return c.kind != Kind::kGather || c.root != rank;
}

int usable_cores() {
  cpu_set_t cores;
  return sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 1;
}

}  // namespace

Communicator::Communicator(std::shared_ptr<SharedSegment> control, int rank, const std::vector<int>& processes,
                           double timeout_seconds)
    : segment_(std::move(control)),
      control_(*reinterpret_cast<ControlBlock*>(segment_->data())),
      rank_(rank),
      world_size_(static_cast<int>(processes.size())),
      processes_(processes),
      timeout_ns_(static_cast<std::int64_t>(timeout_seconds * 1e9)),
      oversubscribed_(world_size_ > usable_cores()),
      liveness_(std::make_shared<Liveness>(segment_, rank, processes)),
      segments_(control_, rank),
      peer_memory_(control_, processes),
      incoming_(processes.size()),
      buffers_(processes.size()),
      factors_(processes.size()) {
  if (control_.magic != kMagic) throw InvalidArgument("the other ranks run another version of pyparallel");
  if (control_.world_size != static_cast<std::uint32_t>(world_size_))
    throw InvalidArgument("rank " + std::to_string(rank) + " was started with a world size of " +
                          std::to_string(world_size_) + ", rank 0 with " + std::to_string(control_.world_size));
}

std::shared_ptr<SharedSegment> Communicator::create_control(int world_size) {
  if (world_size < 1 || world_size > kMaxRanks)
    throw InvalidArgument("a world of " + std::to_string(world_size) + " ranks in shared memory; 1 to " +
                          std::to_string(kMaxRanks) + " are possible");
  auto segment = SharedSegment::create(ControlBlock::num_bytes(static_cast<std::uint64_t>(world_size)));
  auto& control = *reinterpret_cast<ControlBlock*>(segment->data());
  control.world_size = static_cast<std::uint32_t>(world_size);
  control.magic = kMagic;
  return segment;
}

void Communicator::join(const Patience& patience) {
  publish(control_.rank(rank_).joined, 1);
  patience_ = &patience;
  current_ = nullptr;
  deadline_ = now_ns() + timeout_ns_;
  await_all(&RankBlock::joined, 1);
}

void Communicator::leave() { control_.rank(rank_).closed.store(1, std::memory_order_release); }

std::string Communicator::describe(const Collective& c) const {
  return shm::describe(as_operation(c)) + " #" + std::to_string(sequence_);
}

std::uint64_t Communicator::slot_header(std::uint64_t count) const {
  return count == kUnequal ? 2 * sizeof(std::uint64_t) * static_cast<std::uint64_t>(world_size_) : 0;
}

bool Communicator::through_slot(const Collective& c) const {
  return c.count != kUnequal && c.algorithm == Algorithm::kDirect && fits_slot(input_bytes(c, world_size_), c.count);
}

void Communicator::post(const Collective& c) {
  ++sequence_;
  RankBlock& own = control_.rank(rank_);
  Operation& operation = own.operations[sequence_ & 1];
  operation = as_operation(c);
  char* const slot = control_.slot(rank_, sequence_);
  const std::uint64_t header = slot_header(c.count), bytes = input_bytes(c, world_size_);
  if (header > 0) {
    std::memcpy(slot, c.input_sizes.data(), header / 2);
    std::memcpy(slot + header / 2, c.output_sizes.data(), header / 2);
  }
  if (c.algorithm == Algorithm::kDirect && bytes > 0 && gives(c, rank_)) {
    if (!fits_slot(bytes, c.count))
      segments_.locate(c.input, bytes, operation);
    else if (bytes < kLeastStreamed)
      std::memcpy(slot + header, c.input, bytes);
    else
      stream_copy(slot + header, c.input, bytes);
  }
  publish(own.posted, sequence_);
}

void Communicator::complete(const Collective& c, const Patience& patience, std::uint64_t flight) {
  flight_ = flight;
  patience_ = &patience;
  current_ = &c;
  deadline_ = now_ns() + timeout_ns_;
  await_all(&RankBlock::posted, sequence_);
  check_same_operation(control_, sequence_, rank_);
  peer_memory_.sweep();
  std::fill_n(squares_, 2, 0.0);
  for (const auto& precedence : precedence_) precedence->begin();
  try {
    run(c);
  } catch (...) {
    for (const auto& precedence : precedence_) precedence->end();
    throw;
  }
  for (const auto& precedence : precedence_) precedence->end();
  if (c.squares != nullptr) std::copy_n(squares_, 2, c.squares);
}

void Communicator::go_before(Communicator& other) {
  if (!other.yields_to_) other.yields_to_ = std::make_shared<Precedence>();
  precedence_ = other.precedence_;
  precedence_.push_back(other.yields_to_);
  other.ahead_.store(other.yields_to_.get(), std::memory_order_release);
}

void Communicator::run(const Collective& c) {
  if (c.algorithm == Algorithm::kRing) return ring(c);
  switch (c.kind) {
    case Kind::kAllReduce:
      return all_reduce(c);
    case Kind::kReduce:
      return reduce(c);
    case Kind::kReduceScatter:
      return reduce_scatter(c);
    case Kind::kBroadcast:
    case Kind::kAllGather:
    case Kind::kGather:
    case Kind::kScatter:
    case Kind::kAllToAll:
      return move(c);
    case Kind::kBarrier:
      return;
  }
}

void Communicator::await(Flag RankBlock::* flag, int r, std::uint32_t target) {
  Flag& awaited = control_.rank(r).*flag;
  give_way();
  if (reached(awaited, target)) return;
  const std::int64_t start = now_ns();
  const std::string doing = current_ ? describe(*current_) : "init()";
  std::int64_t yield_ns = oversubscribed_ ? 0 : patience_->yield_ns;
  for (; !wait(awaited, target, yield_ns, kSliceNs); yield_ns = 0) {
    const bool left = control_.rank(r).closed.load(std::memory_order_acquire) != 0;
    if (reached(awaited, target)) break;
    if (flight_ != 0) flights().wait_for(Lane::kCollectives, flight_, r);
    try {
      liveness_->check(left ? r : rank_, doing);
    } catch (...) {
      if (reached(awaited, target)) break;  // it came just before somebody failed: that is for the next operation
      throw;
    }
    if (abandoned_.load() || (patience_->interrupted && patience_->interrupted()))
      throw Interrupted("rank " + std::to_string(rank_) + " was interrupted in " + doing);
    if (now_ns() > deadline_)
      throw CollectiveTimeoutError("rank " + std::to_string(rank_) + " waited " +
                                   std::to_string(timeout_ns_ / 1'000'000) + " ms for rank " + std::to_string(r) +
                                   " in " + doing + ", which did not come\n" + who_waits(control_));
  }
  if (flight_ != 0) flights().wait_for(Lane::kCollectives, 0, 0);
  waited_ns_ += now_ns() - start;
}

void Communicator::tell_peers(const std::exception_ptr& error, const std::string& doing) {
  try {
    std::rethrow_exception(error);
  } catch (const PeerLostError&) {  // the peers find these out themselves, or run into their own deadlines
  } catch (const PeerFailedError&) {
  } catch (const CollectiveMismatchError&) {
  } catch (const CollectiveTimeoutError&) {
  } catch (const Interrupted&) {
    if (!abandoned_.load()) liveness_->fail(doing, "interrupted");
  } catch (const std::exception& other) {
    liveness_->fail(doing, other.what());
  }
}

void Communicator::await_all(Flag RankBlock::* flag, std::uint32_t target) {
  for (int step = 1; step < world_size_; ++step) await(flag, (rank_ + step) % world_size_, target);
}

// Whether all ranks described shared memory. If so, buffers_ holds their addresses in this process.
bool Communicator::all_shared() {
  for (int r = 0; r < world_size_; ++r)
    if (operation(r).segment == kPrivate) return false;
  for (int r = 0; r < world_size_; ++r) buffers_[r] = peer_memory_.map(r, operation(r));
  return true;
}

// No rank touches its buffer again before all are through with it.
void Communicator::finish_shared() {
  ++finished_;
  publish(control_.rank(rank_).finished, finished_);
  await_all(&RankBlock::finished, finished_);
}

}  // namespace pyparallel::shm
