// Blocks of a plan from their placing to their burial.
#include "memory/planned_arenas.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "memory/poison.hpp"
#include "memory/pool.hpp"

namespace pyparallel::memory {

PlannedArenas::~PlannedArenas() {
  if (pool_.forked()) return;  // the events are the parent's
  for (auto& [place, shared] : shared_)
    for (const Event event : shared.events) pool_.upstream_->destroy(event);
}

void PlannedArenas::set_step(std::unique_ptr<PlannedStep> step) {
  step_ = std::move(step);
  live_.assign(step_ ? step_->num_places() : 0, {});
}

// ---- memory ----

void PlannedArenas::allocate() {
  pool_.trim();
  const std::lock_guard<std::mutex> lock(pool_.mutex_);
  for (PlannedStep::Arena& arena : step_->arenas()) {
    Pool::Shortage shortage;
    Block* const block = pool_.find_block(arena.num_bytes, arena.stream, pool_.streams_[arena.stream].stream, shortage);
    if (block == nullptr) throw OutOfMemoryError(arena.num_bytes, shortage.cached, "arena of a plan");
    pool_.blocks_.insert(block);
    block->requested.store(0, std::memory_order_relaxed);
    block->site.store(0, std::memory_order_relaxed);
    block->serial.store(0, std::memory_order_relaxed);
    block->state.store(State::kLive, std::memory_order_release);
    arena.data = block->data;
  }
}

void PlannedArenas::open() {
  step_->set_addresses();
  taken_ = true;
}

void PlannedArenas::release() {
  const std::lock_guard<std::mutex> lock(pool_.mutex_);
  for (PlannedStep::Arena& arena : step_->arenas()) {
    if (arena.data == nullptr) continue;
    Block* const block = pool_.blocks_.find(arena.data);
    block->state.store(State::kCached, std::memory_order_relaxed);
    pool_.insert_free(block);
    arena.data = nullptr;
  }
  taken_ = false;
}

// ---- blocks ----

std::uint32_t PlannedArenas::blocker(std::size_t request) {
  const PlannedStep::Planned& due = step_->requests()[request];
  const auto alive = [&] {
    for (auto i = due.first_blocker; i < due.end_blocker; ++i) {
      const PlannedStep::Blocker& blocker = step_->blockers()[i];
      if (live_[blocker.place].request == blocker.request) return blocker.request;
    }
    return kDead;
  };
  const std::uint32_t found = alive();
  if (found == kDead || shared_.empty()) return found;
  drain();
  return alive();
}

void* PlannedArenas::place(std::size_t request, const Asked& asked) {
  const PlannedStep::Planned& planned = step_->requests()[request];
  const std::uint64_t serial = asked.observed ? asked.observed->fetch_add(1, std::memory_order_relaxed) + 1 : 0;
  live_[planned.place] = {static_cast<std::uint32_t>(request), asked.site, asked.num_bytes, serial};
  const std::uint64_t rounded = planned.request.num_bytes;
  ++live_blocks_, live_within_ += !planned.spans, live_bytes_ += rounded;
  pool_.live_.add_planned(class_of(rounded), rounded);
  return planned.data;
}

std::uint32_t PlannedArenas::left_over() const {
  if (live_within_ == 0) return kDead;
  return std::find_if(live_.begin(), live_.end(),
                      [&](const Live& live) { return live.request != kDead && !planned(live).spans; })
      ->request;
}

// Its owner has freed it, and waits for other streams.
bool PlannedArenas::is_freed(PlannedStep::PlaceNumber place) const {
  if (shared_.empty()) return false;
  const auto shared = shared_.find(place);
  return shared != shared_.end() && shared->second.freed;
}

PlannedStep::PlaceNumber PlannedArenas::live_place(const void* data, const char* call, bool* inside) const {
  *inside = false;
  if (!taken_) return PlannedStep::kNoPlace;
  const PlannedStep::PlaceNumber place = step_->find(data, inside);
  if (!*inside) return place;
  if (place == PlannedStep::kNoPlace || live_[place].request == kDead || is_freed(place))
    pool_.no_live_block(call, data);
  return place;
}

bool PlannedArenas::use(const void* data, StreamId user, Stream stream) {
  bool inside;
  const PlannedStep::PlaceNumber place = live_place(data, "use", &inside);
  if (!inside) return false;
  if (planned(live_[place]).request.stream == user) return true;
  {
    const std::lock_guard<std::mutex> lock(pool_.mutex_);
    pool_.streamed(user, stream);
  }
  std::vector<StreamId>& users = shared_[place].users;
  if (std::find(users.begin(), users.end(), user) == users.end()) users.push_back(user);
  return true;
}

std::optional<PlannedArenas::Freed> PlannedArenas::free(const void* data) {
  bool inside;
  const PlannedStep::PlaceNumber place = live_place(data, "free", &inside);
  if (!inside) return std::nullopt;
  const Live& live = live_[place];
  const Freed freed = {live.num_bytes, planned(live).request.num_bytes};
  pool_.live_.subtract_planned(class_of(freed.rounded), freed.rounded);
  forbid(*pool_.upstream_, static_cast<const char*>(data), freed.rounded);
  const auto shared = shared_.empty() ? shared_.end() : shared_.find(place);
  if (shared == shared_.end()) {
    bury(place);
  } else {
    const std::lock_guard<std::mutex> lock(pool_.mutex_);
    pool_.pending_ += freed.rounded;
    shared->second.freed = true;
    record_events(shared->second);
  }
  return freed;
}

std::optional<PlannedArenas::Found> PlannedArenas::find(const void* data) const {
  bool inside = false;
  const PlannedStep::PlaceNumber place = taken_ ? step_->find(data, &inside) : PlannedStep::kNoPlace;
  if (place == PlannedStep::kNoPlace || live_[place].request == kDead) return std::nullopt;
  const Request& request = planned(live_[place]).request;
  const auto& arenas = step_->arenas();
  const auto own = std::find_if(arenas.begin(), arenas.end(),
                                [&](const PlannedStep::Arena& arena) { return arena.stream == request.stream; });
  return Found{request.num_bytes, request.stream, own->data};
}

void PlannedArenas::bury(PlannedStep::PlaceNumber place) {
  Live& live = live_[place];
  const PlannedStep::Planned& dead = planned(live);
  live.request = kDead;
  --live_blocks_, live_within_ -= !dead.spans, live_bytes_ -= dead.request.num_bytes;
}

// ---- other streams ----

// An event behind the work of every stream that used the block; later if one of them takes none now. Under the pool's
// lock.
void PlannedArenas::record_events(Shared& shared) {
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

void PlannedArenas::drain() {
  if (shared_.empty()) return;
  const std::lock_guard<std::mutex> lock(pool_.mutex_);
  for (auto next = shared_.begin(); next != shared_.end();) {
    const auto entry = next++;
    auto& [place, shared] = *entry;
    if (!shared.freed) continue;
    if (!shared.recorded) record_events(shared);
    std::erase_if(shared.events, [&](Event event) {
      const bool passed = pool_.upstream_->passed(event);
      if (passed) pool_.upstream_->destroy(event);
      return passed;
    });
    if (!shared.recorded || !shared.events.empty()) continue;
    const PlannedStep::Planned& dead = planned(live_[place]);
    pool_.pending_ -= dead.request.num_bytes;
    pool_.tell(Action::kFreeCompleted, dead.data, live_[place].num_bytes, 0);
    bury(place);
    shared_.erase(entry);
  }
}

// ---- what is seen ----

std::vector<ListedBlock> PlannedArenas::list(const void* data, Stream stream) const {
  std::vector<ListedBlock> blocks;
  if (!taken_) return blocks;
  const auto& arenas = step_->arenas();
  const auto arena =
      std::find_if(arenas.begin(), arenas.end(), [&](const PlannedStep::Arena& other) { return other.data == data; });
  if (arena == arenas.end()) return blocks;
  for (PlannedStep::PlaceNumber place = 0; place < live_.size(); ++place) {
    const Live& live = live_[place];
    if (live.request == kDead || planned(live).request.stream != arena->stream) continue;
    blocks.push_back({planned(live).data, planned(live).request.num_bytes, live.num_bytes, live.serial, stream,
                      live.site, is_freed(place) ? State::kPending : State::kLive});
  }
  std::sort(blocks.begin(), blocks.end(), [](const auto& a, const auto& b) { return a.data < b.data; });
  std::vector<ListedBlock> whole;
  const char* end = arena->data;
  const auto gap_until = [&](const char* begin) {
    if (end < begin) whole.push_back({end, static_cast<std::uint64_t>(begin - end), 0, 0, stream, 0, State::kFree});
  };
  for (const ListedBlock& block : blocks) {
    gap_until(block.data);
    whole.push_back(block);
    end = block.data + block.num_bytes;
  }
  gap_until(arena->data + arena->num_bytes);
  return whole;
}

void PlannedArenas::add_sites(std::map<CallSite, std::uint64_t>& bytes_of) const {
  for (PlannedStep::PlaceNumber place = 0; place < live_.size(); ++place) {
    const Live& live = live_[place];
    if (live.request != kDead && !is_freed(place)) bytes_of[live.site] += planned(live).request.num_bytes;
  }
}

}  // namespace pyparallel::memory
