// One block at a time: threads start, wait for each other and end; who goes on next is the schedule's choice.
//
// A thread that never waits runs on the fiber of the one before it, so an elementwise kernel costs no switch at all.
#include "emulation/block.hpp"

#include <bit>
#include <sstream>

#include "emulation/report.hpp"

namespace pyparallel::emulation {
namespace {

// See last_switch() in fiber.cpp.
__attribute__((noinline)) BlockRunner*& current_runner() {
  static constinit thread_local BlockRunner* current = nullptr;
  asm volatile("");
  return current;
}

inline constexpr int kAllLanes = -1;

BlockRunner& runner() {
  if (current_runner() == nullptr) fail("an intrinsic was called outside of a kernel");
  return *current_runner();
}

bool same_place(const Place& a, const Place& b) {
  if (a.source.line() != b.source.line() || a.source.column() != b.source.column()) return false;
  return a.source.file_name() == b.source.file_name() || std::string_view(a.source.file_name()) == b.source.file_name();
}

std::ostream& operator<<(std::ostream& out, const Place& place) {
  return out << place.operation << " at " << place.source.file_name() << ":" << place.source.line();
}

}  // namespace

constinit thread_local Thread* current_thread = nullptr;

// ---- blocks ----

void BlockRunner::run(const KernelCall& call) {
  Unseen unseen;
  call_ = &call;
  current_runner() = this;
  host_.adopt_identity();
  begin_.emplace();
  end_.emplace();
  begin_->release();
  for (unsigned z = 0; z < call.grid.z; ++z)
    for (unsigned y = 0; y < call.grid.y; ++y)
      for (unsigned x = 0; x < call.grid.x; ++x) run_block({x, y, z});
  end_->acquire();
  current_runner() = nullptr;
}

void BlockRunner::run_block(uint3 block_index) {
  const dim3 grid = call_->grid;
  const std::uint64_t number = (std::uint64_t{block_index.z} * grid.y + block_index.y) * grid.x + block_index.x;
  schedule_.emplace(config().threads, call_->seed + number * 0x632be59bd9b4e019u);
  barrier_.emplace();
  shared_.emplace(call_->shared_bytes);
  block_parity_ ^= 1;
  place_threads(block_index);
  running_ = &host_;
  resume(next_slot());
  current_thread = nullptr;
  shared_.reset();
}

void BlockRunner::place_threads(uint3 block_index) {
  const dim3 block = call_->block;
  live_ = static_cast<int>(block.x * block.y * block.z);
  slots_.resize(static_cast<std::size_t>(live_));
  for (int i = 0; i < live_; ++i) {
    Slot& slot = slots_[static_cast<std::size_t>(i)];
    const unsigned n = static_cast<unsigned>(i);
    const uint3 thread_index = {n % block.x, n / block.x % block.y, n / (block.x * block.y)};
    slot.thread = {thread_index, block_index, block, call_->grid, i, i % kWarpThreads};
    slot.ended = false;
    slot.waits.reset();
    // Made now, by the stream: made later, by another thread of the block, it would know what that thread knows.
    slot.fiber = kTsan ? take_fiber(i) : nullptr;
    schedule_->add(i / kWarpThreads, 1u << i % kWarpThreads);
  }
}

// ---- threads ----

void BlockRunner::fiber_main() {
  for (;;) current_runner()->run_thread();
}

void BlockRunner::run_thread() {
  Fiber* const self = running_;
  begin_->acquire();
  call_->body();
  Slot* const next = end_thread();
  if (next != nullptr && next->fiber == nullptr) {  // it starts where this one ended
    next->fiber = self;
    current_thread = &next->thread;
    return;
  }
  give_back(self);
  if (next != nullptr) return resume(*next);
  running_ = &host_;
  Fiber::switch_between(*self, host_);
}

// Returns who is next, null after the last thread of the block.
BlockRunner::Slot* BlockRunner::end_thread() {
  Unseen unseen;
  current_slot().ended = true;
  end_->release();
  --live_;
  if (barrier_->arrived > 0 && barrier_->arrived == live_) open_barrier();
  return live_ > 0 ? &next_slot() : nullptr;
}

// Returns when somebody has resumed the thread, which may be at once.
void BlockRunner::wait(Slot& slot, const Place& place) {
  slot.waits = place;
  resume(next_slot());
  slot.waits.reset();
}

void BlockRunner::resume(Slot& slot) {
  if (slot.fiber == nullptr) slot.fiber = take_fiber(slot.thread.number);
  current_thread = &slot.thread;
  if (slot.fiber == running_) return;
  Fiber& from = *running_;
  running_ = slot.fiber;
  Fiber::switch_between(from, *slot.fiber);
}

BlockRunner::Slot& BlockRunner::next_slot() {
  if (schedule_->empty()) report("deadlock: no thread can go on");
  return slots_[static_cast<std::size_t>(schedule_->next())];
}

BlockRunner::Slot& BlockRunner::current_slot() { return slots_[static_cast<std::size_t>(current_thread->number)]; }

Fiber* BlockRunner::take_fiber(int number) {
  if (kTsan) {
    auto& fibers = own_fibers_[block_parity_];
    if (fibers.size() <= static_cast<std::size_t>(number)) fibers.push_back(std::make_unique<Fiber>(&fiber_main));
    return fibers[static_cast<std::size_t>(number)].get();
  }
  if (idle_fibers_.empty()) {
    fibers_.push_back(std::make_unique<Fiber>(&fiber_main));
    return fibers_.back().get();
  }
  Fiber* const fiber = idle_fibers_.back();
  idle_fibers_.pop_back();
  return fiber;
}

void BlockRunner::give_back(Fiber* fiber) {
  if (!kTsan) idle_fibers_.push_back(fiber);
}

// ---- barriers ----

BarrierResult BlockRunner::barrier(bool predicate, const Place& place) {
  Unseen unseen;
  Slot& slot = current_slot();
  Barrier& barrier = *barrier_;
  slot.waits = place;
  if (barrier.place && !same_place(*barrier.place, place)) report("divergent barrier: threads wait in different ones");
  barrier.place = place;
  const std::size_t parity = barrier.generation & 1;
  BarrierResult& result = barrier.results[parity];
  if (barrier.arrived++ == 0) result = {0, 0};
  result.count += predicate;
  ++result.threads;
  barrier.order[parity].release();
  barrier.waiting[static_cast<std::size_t>(slot.thread.number / kWarpThreads)] |= 1u << slot.thread.lane;
  if (barrier.arrived == live_) open_barrier();
  wait(slot, place);
  barrier.order[parity].acquire();
  return result;
}

void BlockRunner::open_barrier() {
  Barrier& barrier = *barrier_;
  for (int warp = 0; warp < kMaxWarps; ++warp) {
    std::uint32_t& waiting = barrier.waiting[static_cast<std::size_t>(warp)];
    schedule_->add(warp, waiting);
    waiting = 0;
  }
  barrier.arrived = 0;
  barrier.place.reset();
  ++barrier.generation;
}

// ---- lanes of a warp ----

std::uint64_t BlockRunner::meet(std::uint32_t mask, std::uint64_t value, int source_lane, bool orders_memory,
                                const Place& place) {
  Unseen unseen;
  Slot& slot = current_slot();
  const std::uint32_t self = 1u << slot.thread.lane;
  slot.waits = place;
  slot.value = value;
  slot.source_lane = source_lane;
  if ((mask & self) == 0) report("a lane is missing in its own mask");
  if (source_lane != kAllLanes && (mask >> source_lane & 1u) == 0) report("a shuffle reads a lane outside of its mask");
  const int warp = slot.thread.number / kWarpThreads;
  auto& meetings = meetings_[static_cast<std::size_t>(warp)];
  auto meeting = meetings.begin();
  while (meeting != meetings.end() && meeting->mask != mask) ++meeting;
  if (meeting == meetings.end())
    meeting = meetings.insert(meeting, {mask, 0, place, orders_memory ? std::make_shared<Token>() : nullptr});
  if (!same_place(meeting->place, place)) report("divergent warp: lanes of one mask wait in different places");
  meeting->arrived |= self;
  slot.order = meeting->order;
  if (slot.order) slot.order->release();
  if (meeting->arrived == mask) {
    complete(warp, *meeting);
    meetings.erase(meeting);
  }
  wait(slot, place);
  if (slot.order) slot.order->acquire();
  return slot.value;
}

// Hands out all values at once: a lane that is fast may come to the next operation before a slow one has gone on.
void BlockRunner::complete(int warp, const Meeting& meeting) {
  std::array<std::uint64_t, kWarpThreads> values{};
  std::uint64_t bits = 0;
  Slot* const lanes = &slots_[static_cast<std::size_t>(warp * kWarpThreads)];
  for (std::uint32_t rest = meeting.mask; rest != 0; rest &= rest - 1) {
    const int lane = std::countr_zero(rest);
    values[static_cast<std::size_t>(lane)] = lanes[lane].value;
    bits |= std::uint64_t{lanes[lane].value != 0} << lane;
  }
  for (std::uint32_t rest = meeting.mask; rest != 0; rest &= rest - 1) {
    Slot& slot = lanes[std::countr_zero(rest)];
    slot.value = slot.source_lane == kAllLanes ? bits : values[static_cast<std::size_t>(slot.source_lane)];
  }
  schedule_->add(warp, meeting.mask);
}

// ---- reports ----

void BlockRunner::report(const std::string& what) const {
  const uint3 block = current_thread->block_index;
  std::ostringstream out;
  out << what << "\n  in \"" << call_->operation << "\", block (" << block.x << ", " << block.y << ", " << block.z
      << ") of " << slots_.size() << " threads, " << slots_.size() - static_cast<std::size_t>(live_) << " ended";
  for (std::size_t first = 0, last; first < slots_.size(); first = last + 1) {
    const Slot& slot = slots_[first];
    const auto continues = [&](const Slot& other) {
      return !other.ended && other.waits && same_place(*other.waits, *slot.waits);
    };
    last = first;
    if (slot.ended || !slot.waits) continue;
    while (last + 1 < slots_.size() && continues(slots_[last + 1])) ++last;
    out << "\n  threads " << first << " to " << last << " wait in " << *slot.waits;
  }
  fail(out.str());
}

// ---- what kernels call ----

BarrierResult barrier(bool predicate, const Place& place) { return runner().barrier(predicate, place); }

std::uint64_t exchange(std::uint32_t mask, std::uint64_t value, int source_lane, const Place& place) {
  return runner().meet(mask, value, source_lane, false, place);
}

std::uint32_t ballot(std::uint32_t mask, bool predicate, const Place& place) {
  return static_cast<std::uint32_t>(runner().meet(mask, predicate, kAllLanes, false, place));
}

void sync_warp(std::uint32_t mask, const Place& place) { runner().meet(mask, 0, kAllLanes, true, place); }

// A stronger fence than the device's: it also orders threads that use no atomic between their fences. So the usual
// pattern, data, fence, counter, is not mistaken for a race.
void fence() {
  static char everybody;
  release_order(&everybody);
  acquire_order(&everybody);
}

void* static_shared(const void* key, std::size_t bytes, std::size_t alignment) {
  Unseen unseen;
  return runner().shared().static_array(key, bytes, alignment);
}

void* dynamic_shared() {
  void* const memory = runner().shared().dynamic_array();
  if (memory == nullptr) fail("dynamic shared memory is used, but the launch gave none");
  return memory;
}

}  // namespace pyparallel::emulation
