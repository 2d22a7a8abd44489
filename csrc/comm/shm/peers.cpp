// Liveness through pidfds, the table of own shared allocations, and the cache of the peers'.
#include "comm/shm/peers.hpp"

#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "core/error.hpp"

namespace pyparallel::shm {
namespace {

// As much of the text as fits with its final 0, cut between two UTF-8 characters.
void write(char* target, std::size_t room, const std::string& text) {
  std::size_t size = std::min(text.size(), room - 1);
  while (size > 0 && size < text.size() && (text[size] & 0xc0) == 0x80) --size;
  text.copy(target, size);
}

constexpr int kGone = -2;  // in place of a pidfd: the process had ended before it could be opened

}  // namespace

Liveness::Liveness(std::shared_ptr<SharedSegment> control, int rank, const std::vector<int>& processes)
    : segment_(std::move(control)),
      control_(*reinterpret_cast<ControlBlock*>(segment_->data())),
      rank_(rank),
      processes_(processes),
      pidfds_(processes.size(), -1) {
  for (std::size_t r = 0; r < processes.size(); ++r) {
    if (processes[r] == getpid()) continue;
    pidfds_[r] = static_cast<int>(syscall(SYS_pidfd_open, processes[r], 0));
    if (pidfds_[r] < 0 && errno == ESRCH) pidfds_[r] = kGone;
  }
}

Liveness::~Liveness() {
  for (int fd : pidfds_)
    if (fd >= 0) close(fd);
}

bool Liveness::has_exited(int rank) {
  if (pidfds_[rank] < 0) return pidfds_[rank] == kGone;
  pollfd query{pidfds_[rank], POLLIN, 0};
  return poll(&query, 1, 0) > 0;
}

bool Liveness::others_gone() {
  for (int r = 0; r < static_cast<int>(processes_.size()); ++r)
    if (r != rank_ && control_.rank(r).closed.load(std::memory_order_acquire) == 0 && !has_exited(r)) return false;
  return true;
}

// The first to find out that a rank is gone names it for all.
std::uint32_t Liveness::first_lost() {
  for (int r = 0; r < static_cast<int>(processes_.size()); ++r) {
    if (const std::uint32_t lost = control_.first_lost.load(std::memory_order_acquire)) return lost;
    RankBlock& block = control_.rank(r);
    const auto named = [&](std::uint32_t how) {
      std::uint32_t none = 0;
      control_.first_lost.compare_exchange_strong(none, (static_cast<std::uint32_t>(r) + 1) | how);
    };
    if (block.failure.failed.load(std::memory_order_acquire) != 0) named(ControlBlock::kSaidSo);
    if (r == rank_ || block.closed.load(std::memory_order_acquire) != 0 || !has_exited(r)) continue;
    // It may have failed or closed between the two looks.
    if (block.failure.failed.load(std::memory_order_acquire) != 0)
      named(ControlBlock::kSaidSo);
    else if (block.closed.load(std::memory_order_acquire) == 0)
      named(0);
  }
  return control_.first_lost.load(std::memory_order_acquire);
}

void Liveness::check(int awaited, const std::string& doing) {
  const auto describe = [&](int r) {
    return "rank " + std::to_string(r) + " (process " + std::to_string(processes_[r]) + ")";
  };
  const std::string was = "; rank " + std::to_string(rank_) + " was in " + doing;
  const std::uint32_t lost = first_lost();
  const int r = static_cast<int>(lost & ~ControlBlock::kSaidSo) - 1;
  if ((lost & ControlBlock::kSaidSo) != 0) {
    const Failure& failure = control_.rank(r).failure;
    const std::string operation = failure.operation, cause = failure.cause;
    throw PeerFailedError(
        r, operation, cause,
        describe(r) + " failed in " + (operation.empty() ? "its own code" : operation) + ": " + cause + was);
  }
  if (lost != 0) throw PeerLostError(r, describe(r) + " died" + was);
  if (control_.rank(awaited).closed.load(std::memory_order_acquire) != 0)
    throw PeerLostError(awaited, describe(awaited) + " left and closed its communicator" + was);
}

void Liveness::fail(const std::string& operation, const std::string& cause) {
  std::lock_guard<std::mutex> lock(mutex_);
  Failure& own = control_.rank(rank_).failure;
  if (own.failed.load(std::memory_order_relaxed) != 0) return;
  write(own.operation, sizeof own.operation, operation);
  write(own.cause, sizeof own.cause, cause);
  own.failed.store(1, std::memory_order_release);
  first_lost();
}

std::exception_ptr Liveness::explain(const std::exception_ptr& error, const std::string& doing) {
  for (int milliseconds = 0; milliseconds < 1000; ++milliseconds) {
    try {
      check(rank_, doing);
    } catch (...) {
      return std::current_exception();
    }
    usleep(1000);
  }
  return error;
}

Place SegmentTable::locate(const void* address, std::uint64_t num_bytes) {
  const char* const first = static_cast<const char*>(address);
  std::shared_ptr<SharedSegment> segment;  // outlives the lock
  std::lock_guard<std::mutex> lock(mutex_);
  auto told = told_.upper_bound(first);
  if (told == told_.begin() || !(--told)->second.has(first)) {
    segment = SharedSegment::containing(address);
    if (!segment) return {kPrivate, 0, 0};
    told = tell(segment);
  }
  const auto offset = static_cast<std::uint64_t>(first - told->first);
  if (told->second.num_bytes - offset < num_bytes) return {kPrivate, 0, 0};
  const std::uint32_t index = told->second.index;
  return {index, block_.segments[index].generation.load(), offset};
}

bool SegmentTable::Told::has(const char* address) const {
  return static_cast<std::uint64_t>(address - data) < num_bytes && !segment.expired();
}

std::map<const char*, SegmentTable::Told>::iterator SegmentTable::tell(const std::shared_ptr<SharedSegment>& segment) {
  forget_ended();
  for (std::uint32_t index = 0; index < kMaxSegments; ++index) {
    SegmentEntry& entry = block_.segments[index];
    const std::uint32_t generation = entry.generation.load();
    if (generation & 1) continue;
    entry.fd.store(segment->fd());
    entry.generation.store(generation + 1);
    const Told told{index, segment, segment->data(), segment->num_bytes()};
    return told_.insert_or_assign(segment->data(), told).first;
  }
  throw InvalidArgument("no room for another shared segment: rank " + std::to_string(rank_) + " already has " +
                        std::to_string(kMaxSegments) + "; take shared tensors from fewer pools");
}

void SegmentTable::forget_ended() {
  std::erase_if(told_, [&](const auto& entry) {
    const bool ended = entry.second.segment.expired();
    if (ended) {
      block_.segments[entry.second.index].generation.fetch_add(1);
      block_.freed.fetch_add(1);
    }
    return ended;
  });
}

void SegmentTable::locate(const void* address, std::uint64_t num_bytes, Operation& operation) {
  const Place place = locate(address, num_bytes);
  operation.segment = place.segment;
  operation.generation = place.generation;
  operation.offset = place.offset;
}

std::shared_ptr<SharedSegment> PeerMemory::segment(int r, const Place& place) {
  Mapping& mapping = mappings_[{r, place.segment}];
  if (!mapping.segment || mapping.generation != place.generation) {
    mapping.segment.reset();
    mapping.segment = SharedSegment::open(processes_[r], control_.rank(r).segments[place.segment].fd.load());
    mapping.generation = place.generation;
  }
  return mapping.segment;
}

void PeerMemory::sweep() {
  for (int r = 0; r < static_cast<int>(freed_.size()); ++r) {
    const std::uint32_t freed = control_.rank(r).freed.load(std::memory_order_acquire);
    if (freed == freed_[r]) continue;
    freed_[r] = freed;
    const auto first = mappings_.lower_bound({r, 0});
    for (auto entry = first; entry != mappings_.end() && entry->first.first == r;) {
      const auto& slot = control_.rank(r).segments[entry->first.second];
      entry = slot.generation.load() == entry->second.generation ? std::next(entry) : mappings_.erase(entry);
    }
  }
}

}  // namespace pyparallel::shm
