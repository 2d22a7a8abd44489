// The plan followed, and its way from step to step.
#include "memory/planned_placement.hpp"

#include <algorithm>
#include <thread>

#include "core/error.hpp"
#include "memory/pool.hpp"

namespace pyparallel::memory {
namespace {

ThreadNumber this_thread() {
  static std::atomic<ThreadNumber> threads{0};
  constinit thread_local ThreadNumber number = 0;  // none yet
  if (number == 0) [[unlikely]]
    number = threads.fetch_add(1, std::memory_order_relaxed) + 1;
  return number;
}

constexpr Request kNothing = {0, 0};

}  // namespace

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

void PlannedPlacement::yield() { std::this_thread::yield(); }

// ---- requests ----

bool PlannedPlacement::takes_part(Stream stream) const {
  const auto& threads = arenas_.step()->threads();
  return std::find(threads.begin(), threads.end(), this_thread()) != threads.end() &&
         !pool_.upstream_->capturing(stream);
}

// Whether the plan has this request now, and its place is free.
bool PlannedPlacement::due(const Request& request) {
  const PlannedStep& step = *arenas_.step();
  if (cursor_ == step.requests().size()) {
    diverge(Reason::kTooMany, kNothing, request);
    return false;
  }
  const PlannedStep::Planned& planned = step.requests()[cursor_];
  if (planned.request != request) {
    diverge(Reason::kOtherRequest, planned.request, request);
    return false;
  }
  const std::uint32_t blocker = arenas_.blocker(cursor_);
  if (blocker == PlannedArenas::kDead) return true;
  diverge(Reason::kStillAlive, request, step.requests()[blocker].request);
  return false;
}

void* PlannedPlacement::allocate(const Request& request, Stream stream, const PlannedArenas::Asked& asked) {
  Guard guard(*this);
  const PlannedStep* const step = arenas_.step();
  if (!in_step_ || step == nullptr) return nullptr;
  ++requests_, bytes_ += request.num_bytes;
  if (!following_ || !takes_part(stream)) return nullptr;
  if (state_ == PlanState::kTaking) {  // another thread, between two requests of the plan
    diverge(Reason::kOtherRequest, step->requests()[cursor_].request, request);
    return nullptr;
  }
  if (!due(request)) return nullptr;
  if (state_ == PlanState::kReady && cursor_ == step->valley() && !take_arenas(guard)) return nullptr;
  const std::size_t number = cursor_++;
  if (!arenas_.taken() || step->requests()[number].place == PlannedStep::kNoPlace) return nullptr;
  ++planned_requests_, planned_bytes_ += request.num_bytes;
  return arenas_.place(number, asked);
}

void PlannedPlacement::placed(const void* data, const Request& request, Stream stream) {
  if (!records_.load(std::memory_order_acquire)) return;
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

bool PlannedPlacement::use(const void* data, StreamId user, Stream stream) {
  Guard guard(*this);
  if (arenas_.use(data, user, stream)) return true;
  if (state_ == PlanState::kRecording) recording_.used(data);
  return false;
}

std::optional<PlannedArenas::Freed> PlannedPlacement::free(const void* data) {
  Guard guard(*this);
  const auto freed = arenas_.free(data);
  if (!freed && state_ == PlanState::kRecording) recording_.freed(data);
  return freed;
}

std::optional<PlannedArenas::Found> PlannedPlacement::find(const void* data) {
  Guard guard(*this);
  return arenas_.find(data);
}

// ---- the arenas ----

bool PlannedPlacement::take_arenas(Guard& guard) {
  set_state(PlanState::kTaking);
  try {
    Unguarded unguarded(guard);
    arenas_.allocate();
  } catch (const OutOfMemoryError&) {
    return_arenas();
    diverge(Reason::kNoMemory, {arenas_.step()->num_bytes(), 0}, kNothing);
    return false;
  } catch (...) {
    return_arenas();
    following_ = false;
    throw;
  }
  arenas_.open();
  set_state(PlanState::kServing);
  return following_;
}

void PlannedPlacement::return_arenas() {
  arenas_.release();
  set_state(PlanState::kReady);
}

bool PlannedPlacement::give_back() {
  Guard guard(*this);
  if (!arenas_.taken()) return false;
  arenas_.drain();
  if (arenas_.live_blocks() != 0) return false;
  if (in_step_ && following_) diverge(Reason::kNoMemory, {arenas_.step()->num_bytes(), 0}, kNothing);
  const bool retiring = state_ == PlanState::kRetiring;
  return_arenas();
  if (retiring) pause();
  return true;
}

// ---- steps ----

void PlannedPlacement::set_state(PlanState state) {
  state_ = state;
  records_.store(state == PlanState::kRecording, std::memory_order_release);
}

void PlannedPlacement::begin_step() {
  pool_.check_process();
  Guard guard(*this);
  if (in_step_) throw InvalidArgument("begin_step: step " + std::to_string(steps_ - 1) + " has not ended");
  in_step_ = true;
  ++steps_;
  marker_ = this_thread();
  cursor_ = 0;
  arenas_.drain();
  if (state_ == PlanState::kWaiting && pause_ == 0) set_state(PlanState::kRecording);
  if (state_ == PlanState::kRecording) recording_.begin();
  following_ = state_ == PlanState::kReady || state_ == PlanState::kServing;
  if (!following_) return;
  const std::uint32_t left = arenas_.left_over();
  if (left != PlannedArenas::kDead) diverge(Reason::kStillAlive, kNothing, arenas_.step()->requests()[left].request);
}

void PlannedPlacement::end_step() {
  pool_.check_process();
  Guard guard(*this);
  if (!in_step_) throw InvalidArgument("end_step: no step has begun");
  in_step_ = false;
  if (following_) {
    const auto& requests = arenas_.step()->requests();
    if (cursor_ < requests.size()) {
      diverge(Reason::kTooFew, requests[cursor_].request, kNothing);
    } else if (arenas_.taken()) {
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
    set_state(PlanState::kRetiring);
  if (state_ != PlanState::kRetiring) return;
  arenas_.drain();
  if (arenas_.live_blocks() != 0) return;
  if (arenas_.taken()) return_arenas();
  pause();
}

// Steps that do not repeat are looked at ever more rarely.
void PlannedPlacement::pause() {
  set_state(PlanState::kWaiting);
  arenas_.set_step(nullptr);
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
  set_state(PlanState::kPlanning);
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
  arenas_.set_step(std::move(step));
  set_state(PlanState::kReady);
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
  if (const auto* step = arenas_.step()) s.plan_bytes = step->num_bytes(), s.plan_lower_bound = step->lower_bound();
  if (arenas_.taken()) s.arena_bytes = s.plan_bytes;
  s.live_bytes = arenas_.live_bytes(), s.live_blocks = arenas_.live_blocks();
  return s;
}

}  // namespace pyparallel::memory
