// The plan served, and its way from step to step.
#include "memory/planned_placement.hpp"

#include <algorithm>
#include <sstream>
#include <thread>

#include "core/error.hpp"
#include "memory/pool.hpp"

namespace pyparallel::memory {
namespace {

ThreadNumber this_thread() {
  static std::atomic<ThreadNumber> threads{0};
  thread_local const ThreadNumber number = threads.fetch_add(1, std::memory_order_relaxed);
  return number;
}

constexpr Request kNothing = {0, 0};

}  // namespace

class PlannedPlacement::Guard {
 public:
  explicit Guard(PlannedPlacement& owner) : owner_(owner) { lock(); }
  ~Guard() { unlock(); }
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;
  void lock() {
    while (owner_.busy_.test_and_set(std::memory_order_acquire)) std::this_thread::yield();
  }
  void unlock() { owner_.busy_.clear(std::memory_order_release); }

 private:
  PlannedPlacement& owner_;
};

// While something long is done.
class PlannedPlacement::Unguarded {
 public:
  explicit Unguarded(Guard& guard) : guard_(guard) { guard_.unlock(); }
  ~Unguarded() { guard_.lock(); }
  Unguarded(const Unguarded&) = delete;
  Unguarded& operator=(const Unguarded&) = delete;

 private:
  Guard& guard_;
};

PlannedPlacement::~PlannedPlacement() {
  if (pool_.forked()) return;  // the events are the parent's
  for (auto& [place, shared] : shared_)
    for (const Event event : shared.events) pool_.upstream_->destroy(event);
}

// ---- requests ----

bool PlannedPlacement::takes_part(Stream stream) const {
  const auto& threads = step_->threads();
  return std::find(threads.begin(), threads.end(), this_thread()) != threads.end() &&
         !pool_.upstream_->capturing(stream);
}

// Whether the plan has this request now, and its place is free.
bool PlannedPlacement::due(const Request& request) {
  if (cursor_ == step_->requests().size()) {
    diverge(Reason::kTooMany, kNothing, request);
    return false;
  }
  const PlannedStep::Planned& planned = step_->requests()[cursor_];
  if (planned.request != request) {
    diverge(Reason::kOtherRequest, planned.request, request);
    return false;
  }
  const auto alive = [&] {
    for (auto i = planned.first_blocker; i < planned.end_blocker; ++i) {
      const PlannedStep::Blocker& blocker = step_->blockers()[i];
      if (live_[blocker.place].request == blocker.request) return blocker.request;
    }
    return kDead;
  };
  std::uint32_t blocker = alive();
  if (blocker != kDead && !shared_.empty()) {
    drain();
    blocker = alive();
  }
  if (blocker != kDead) diverge(Reason::kStillAlive, request, step_->requests()[blocker].request);
  return blocker == kDead;
}

void* PlannedPlacement::allocate(std::uint64_t num_bytes, const Request& request, Stream stream) {
  Guard guard(*this);
  if (!in_step_ || step_ == nullptr) return nullptr;
  ++requests_, bytes_ += request.num_bytes;
  if (!following_ || !takes_part(stream)) return nullptr;
  if (state_ == PlanState::kTaking) {  // another thread, between two requests of the plan
    diverge(Reason::kOtherRequest, step_->requests()[cursor_].request, request);
    return nullptr;
  }
  if (!due(request)) return nullptr;
  if (state_ == PlanState::kReady && cursor_ == step_->valley() && !take_arenas(guard)) return nullptr;
  const PlannedStep::Planned& planned = step_->requests()[cursor_++];
  if (!taken_ || planned.place == PlannedStep::kNoPlace) return nullptr;
  live_[planned.place] = {static_cast<std::uint32_t>(cursor_ - 1), num_bytes};
  ++live_blocks_, live_within_ += !planned.spans, live_bytes_ += request.num_bytes;
  ++planned_requests_, planned_bytes_ += request.num_bytes;
  return planned.data;
}

void PlannedPlacement::placed(const void* data, const Request& request, Stream stream) {
  Guard guard(*this);
  if (in_step_ && state_ == PlanState::kRecording && !pool_.upstream_->capturing(stream))
    recording_.allocated(data, request, this_thread());
}

void PlannedPlacement::diverge(Reason reason, const Request& expected, const Request& got) {
  following_ = false;
  ++divergences_, ++in_a_row_;
  if (latest_.size() == kLatest) latest_.pop_front();
  latest_.push_back({reason, steps_ - 1, cursor_, expected, got});
}

// ---- uses and frees ----

PlannedStep::PlaceNumber PlannedPlacement::live_place(const void* data, const char* what, bool* inside) const {
  *inside = false;
  if (!taken_) return PlannedStep::kNoPlace;
  const PlannedStep::PlaceNumber place = step_->find(data, inside);
  if (!*inside) return place;
  const auto shared = shared_.find(place);
  if (place == PlannedStep::kNoPlace || live_[place].request == kDead ||
      (shared != shared_.end() && shared->second.freed)) {
    std::ostringstream message;
    message << what << ": " << data << " is no live block of this pool (freed twice, or of another pool)";
    throw InvalidArgument(message.str());
  }
  return place;
}

bool PlannedPlacement::use(const void* data, StreamId user, Stream stream) {
  Guard guard(*this);
  bool inside;
  const PlannedStep::PlaceNumber place = live_place(data, "use", &inside);
  if (!inside) {
    if (state_ == PlanState::kRecording) recording_.used(data);
    return false;
  }
  if (step_->requests()[live_[place].request].request.stream == user) return true;
  {
    const std::lock_guard<std::mutex> lock(pool_.mutex_);
    pool_.streamed(user, stream);
  }
  std::vector<StreamId>& users = shared_[place].users;
  if (std::find(users.begin(), users.end(), user) == users.end()) users.push_back(user);
  return true;
}

std::optional<PlannedPlacement::Freed> PlannedPlacement::free(const void* data) {
  Guard guard(*this);
  bool inside;
  const PlannedStep::PlaceNumber place = live_place(data, "free", &inside);
  if (!inside) {
    if (state_ == PlanState::kRecording) recording_.freed(data);
    return std::nullopt;
  }
  const Live& live = live_[place];
  const Freed freed = {live.num_bytes, step_->requests()[live.request].request.num_bytes};
  const auto shared = shared_.find(place);
  if (shared == shared_.end()) {
    bury(place);
  } else {
    shared->second.freed = true;
    record_events(shared->second);
  }
  return freed;
}

std::optional<PlannedPlacement::Found> PlannedPlacement::find(const void* data) {
  Guard guard(*this);
  bool inside = false;
  const PlannedStep::PlaceNumber place = taken_ ? step_->find(data, &inside) : PlannedStep::kNoPlace;
  if (place == PlannedStep::kNoPlace || live_[place].request == kDead) return std::nullopt;
  const Request& request = step_->requests()[live_[place].request].request;
  const auto& arenas = step_->arenas();
  const auto own = std::find_if(arenas.begin(), arenas.end(),
                                [&](const PlannedStep::Arena& arena) { return arena.stream == request.stream; });
  return Found{request.num_bytes, request.stream, own->data};
}

void PlannedPlacement::bury(PlannedStep::PlaceNumber place) {
  Live& live = live_[place];
  const PlannedStep::Planned& planned = step_->requests()[live.request];
  live.request = kDead;
  --live_blocks_, live_within_ -= !planned.spans, live_bytes_ -= planned.request.num_bytes;
}

// An event behind the work of every stream that used the block; later if one of them takes none now.
void PlannedPlacement::record_events(Shared& shared) {
  const std::lock_guard<std::mutex> lock(pool_.mutex_);
  std::erase_if(shared.users, [&](StreamId user) {
    const auto& streamed = pool_.streams_.at(user);
    return streamed.has_last && pool_.upstream_->passed(streamed.last);
  });
  for (const StreamId user : shared.users)
    if (!pool_.reachable(user, pool_.streams_.at(user))) return;
  for (const StreamId user : shared.users)
    shared.events.push_back(pool_.upstream_->record(pool_.streams_.at(user).stream));
  pool_.events_ += shared.users.size();
  shared.recorded = true;
}

void PlannedPlacement::drain() {
  for (auto next = shared_.begin(); next != shared_.end();) {
    const auto entry = next++;
    Shared& shared = entry->second;
    if (!shared.freed) continue;
    if (!shared.recorded) record_events(shared);
    const std::lock_guard<std::mutex> lock(pool_.mutex_);
    std::erase_if(shared.events, [&](Event event) {
      const bool passed = pool_.upstream_->passed(event);
      if (passed) pool_.upstream_->destroy(event);
      return passed;
    });
    if (!shared.recorded || !shared.events.empty()) continue;
    bury(entry->first);
    shared_.erase(entry);
  }
}

// ---- the arenas ----

// What the pool keeps unused goes first, so that the arenas take its place.
bool PlannedPlacement::take_arenas(Guard& guard) {
  state_ = PlanState::kTaking;
  try {
    Unguarded unguarded(guard);
    pool_.trim();
    const std::lock_guard<std::mutex> lock(pool_.mutex_);
    for (PlannedStep::Arena& arena : step_->arenas()) {
      Pool::Shortage shortage;
      Block* const block =
          pool_.find_block(arena.num_bytes, arena.stream, pool_.streams_[arena.stream].stream, shortage);
      if (block == nullptr) throw OutOfMemoryError(arena.num_bytes, shortage.cached, "arena of a plan");
      pool_.blocks_.insert(block);
      block->requested.store(0, std::memory_order_relaxed);
      block->site.store(0, std::memory_order_relaxed);
      block->state.store(State::kLive, std::memory_order_release);
      arena.data = block->data;
    }
  } catch (const OutOfMemoryError&) {
    return_arenas();
    diverge(Reason::kNoMemory, {step_->num_bytes(), 0}, kNothing);
    return false;
  } catch (...) {
    return_arenas();
    following_ = false;
    throw;
  }
  step_->set_addresses();
  taken_ = true;
  state_ = PlanState::kServing;
  return following_;
}

void PlannedPlacement::return_arenas() {
  const std::lock_guard<std::mutex> lock(pool_.mutex_);
  for (PlannedStep::Arena& arena : step_->arenas()) {
    if (arena.data == nullptr) continue;
    Block* const block = pool_.blocks_.find(arena.data);
    block->state.store(State::kCached, std::memory_order_relaxed);
    pool_.insert_free(block);
    arena.data = nullptr;
  }
  taken_ = false;
  state_ = PlanState::kReady;
}

bool PlannedPlacement::give_back() {
  Guard guard(*this);
  if (!taken_) return false;
  drain();
  if (live_blocks_ != 0) return false;
  if (in_step_ && following_) diverge(Reason::kNoMemory, {step_->num_bytes(), 0}, kNothing);
  const bool retiring = state_ == PlanState::kRetiring;
  return_arenas();
  if (retiring) pause();
  return true;
}

// ---- steps ----

void PlannedPlacement::begin_step() {
  pool_.check_process();
  Guard guard(*this);
  if (in_step_) throw InvalidArgument("begin_step: step " + std::to_string(steps_ - 1) + " has not ended");
  in_step_ = true;
  ++steps_;
  marker_ = this_thread();
  cursor_ = 0;
  if (!shared_.empty()) drain();
  if (state_ == PlanState::kWaiting && pause_ == 0) state_ = PlanState::kRecording;
  if (state_ == PlanState::kRecording) recording_.begin();
  following_ = state_ == PlanState::kReady || state_ == PlanState::kServing;
  if (following_ && live_within_ != 0) {
    const auto within = std::find_if(live_.begin(), live_.end(), [&](const Live& live) {
      return live.request != kDead && !step_->requests()[live.request].spans;
    });
    diverge(Reason::kStillAlive, kNothing, step_->requests()[within->request].request);
  }
}

void PlannedPlacement::end_step() {
  pool_.check_process();
  Guard guard(*this);
  if (!in_step_) throw InvalidArgument("end_step: no step has begun");
  in_step_ = false;
  if (following_) {
    if (cursor_ < step_->requests().size()) {
      diverge(Reason::kTooFew, step_->requests()[cursor_].request, kNothing);
    } else if (taken_) {
      ++planned_steps_;
      in_a_row_ = 0, next_pause_ = 1;
    }
  }
  following_ = false;
  after_step();
  if (state_ == PlanState::kRecording) plan(guard);
}

void PlannedPlacement::after_step() {
  if (state_ == PlanState::kWaiting && pause_ > 0) --pause_;
  if ((state_ == PlanState::kReady || state_ == PlanState::kServing) && in_a_row_ >= most_divergences_)
    state_ = PlanState::kRetiring;
  if (state_ != PlanState::kRetiring) return;
  drain();
  if (live_blocks_ != 0) return;
  if (taken_) return_arenas();
  pause();
}

// Steps that do not repeat are looked at ever more rarely.
void PlannedPlacement::pause() {
  state_ = PlanState::kWaiting;
  step_.reset();
  recording_.clear();
  attempts_ = in_a_row_ = 0;
  pause_ = next_pause_;
  next_pause_ = std::min(2 * next_pause_, kLongestPause);
}

void PlannedPlacement::plan(Guard& guard) {
  recording_.end();
  const std::optional<Period> period = recording_.period(marker_);
  if (!period) {
    if (++attempts_ == kAttempts) pause();
    return;
  }
  state_ = PlanState::kPlanning;
  recording_.clear();
  std::unique_ptr<PlannedStep> step;
  try {
    Unguarded unguarded(guard);
    step = std::make_unique<PlannedStep>(*period);
  } catch (...) {
    pause();
    throw;
  }
  if (step->arenas().empty()) return pause();
  step_ = std::move(step);
  live_.assign(step_->num_places(), {});
  state_ = PlanState::kReady;
}

PlanStatistics PlannedPlacement::statistics() {
  pool_.check_process();
  Guard guard(*this);
  PlanStatistics s{};
  s.state = state_, s.steps = steps_, s.planned_steps = planned_steps_;
  s.requests = requests_, s.planned_requests = planned_requests_;
  s.bytes = bytes_, s.planned_bytes = planned_bytes_;
  s.divergences = divergences_;
  s.latest.assign(latest_.begin(), latest_.end());
  if (step_) s.plan_bytes = step_->num_bytes(), s.plan_lower_bound = step_->lower_bound();
  if (taken_) s.arena_bytes = s.plan_bytes;
  s.live_bytes = live_bytes_, s.live_blocks = live_blocks_;
  return s;
}

}  // namespace pyparallel::memory
