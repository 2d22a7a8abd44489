// From a recorded period to the tables it is served from.
#include "memory/planned_step.hpp"

#include <algorithm>
#include <map>
#include <set>

namespace pyparallel::memory {
namespace {

// Who was last placed on which units.
class Holders {
 public:
  // The holders of a range, each once; then it is `holder`'s.
  std::vector<std::uint32_t> replace(std::uint64_t begin, std::uint64_t end, std::uint32_t holder) {
    split(begin), split(end);
    std::vector<std::uint32_t> found;
    auto piece = pieces_.lower_bound(begin);
    while (piece != pieces_.end() && piece->first < end) {
      found.push_back(piece->second.holder);
      piece = pieces_.erase(piece);
    }
    pieces_[begin] = {end, holder};
    std::sort(found.begin(), found.end());
    found.erase(std::unique(found.begin(), found.end()), found.end());
    return found;
  }

 private:
  struct Piece {
    std::uint64_t end;
    std::uint32_t holder;
  };

  void split(std::uint64_t at) {
    auto piece = pieces_.upper_bound(at);
    if (piece == pieces_.begin()) return;
    --piece;
    if (piece->first == at || piece->second.end <= at) return;
    pieces_[at] = piece->second;
    piece->second.end = at;
  }

  std::map<std::uint64_t, Piece> pieces_;  // by begin
};

}  // namespace

PlannedStep::PlannedStep(const Period& period, std::uint64_t budget) : threads_(period.threads) {
  std::set<StreamId> streams;
  for (std::size_t i = 0; i < period.requests.size(); ++i) {
    const bool spans = period.deaths[i] >= period.requests.size();
    requests_.push_back({period.requests[i], kNoPlace, 0, 0, nullptr, spans});
    if (period.deaths[i] != 0) streams.insert(period.requests[i].stream);
  }
  std::vector<std::uint64_t> units(requests_.size(), ~std::uint64_t{0});  // where each begins
  for (const StreamId stream : streams) place_stream(period, stream, budget, units);
  number_places(units);
  find_blockers(units);
  find_valley(period);
}

void PlannedStep::place_stream(const Period& period, StreamId stream, std::uint64_t budget,
                               std::vector<std::uint64_t>& units) {
  std::vector<Lifetime> lifetimes;
  std::vector<std::size_t> numbers;
  for (std::size_t i = 0; i < requests_.size(); ++i) {
    if (period.deaths[i] == 0 || requests_[i].request.stream != stream) continue;
    lifetimes.push_back({requests_[i].request.num_bytes, i, period.deaths[i]});
    numbers.push_back(i);
  }
  const Plan plan = plan_offsets(lifetimes, requests_.size(), budget);
  const std::uint64_t first_unit = num_bytes_ / kAlignment;
  for (std::size_t i = 0; i < numbers.size(); ++i) units[numbers[i]] = first_unit + plan.offsets[i] / kAlignment;
  arenas_.push_back({stream, plan.num_bytes, first_unit, nullptr});
  num_bytes_ += plan.num_bytes;
  lower_bound_ += plan.lower_bound;
}

void PlannedStep::number_places(const std::vector<std::uint64_t>& units) {
  std::size_t size = 2;
  while (size < 2 * units.size()) size *= 2;
  slots_.assign(size, {0, kNoPlace});
  for (std::size_t i = 0; i < units.size(); ++i) {
    if (units[i] == ~std::uint64_t{0}) continue;
    Slot& slot = slots_[slot_of(units[i])];
    if (slot.place == kNoPlace) slot = {units[i], static_cast<PlaceNumber>(num_places_++)};
    requests_[i].place = slot.place;
  }
}

// The slot with that unit, or the one where it belongs.
std::size_t PlannedStep::slot_of(std::uint64_t unit) const {
  std::size_t slot = unit * 0x9e3779b97f4a7c15u >> 32 & (slots_.size() - 1);
  while (slots_[slot].place != kNoPlace && slots_[slot].unit != unit) slot = (slot + 1) & (slots_.size() - 1);
  return slot;
}

// Once around the circle to know who comes before its beginning, and once to write down.
void PlannedStep::find_blockers(const std::vector<std::uint64_t>& units) {
  Holders holders;
  for (const bool second : {false, true})
    for (std::uint32_t i = 0; i < requests_.size(); ++i) {
      Planned& planned = requests_[i];
      planned.first_blocker = planned.end_blocker = static_cast<std::uint32_t>(blockers_.size());
      if (planned.place == kNoPlace) continue;
      const auto found = holders.replace(units[i], units[i] + planned.request.num_bytes / kAlignment, i);
      if (!second) continue;
      for (const std::uint32_t holder : found) blockers_.push_back({requests_[holder].place, holder});
      planned.end_blocker = static_cast<std::uint32_t>(blockers_.size());
    }
}

void PlannedStep::find_valley(const Period& period) {
  const std::size_t size = requests_.size();
  std::vector<std::uint64_t> alive(size + 1);  // before each request; as differences first
  for (std::size_t i = 0; i < size; ++i) {
    const std::uint64_t num_bytes = requests_[i].request.num_bytes, death = period.deaths[i];
    if (death == 0) continue;
    alive[i + 1] += num_bytes;
    if (death > size) {
      alive[0] += num_bytes;
      alive[death - size] -= num_bytes;
    } else {
      alive[death] -= num_bytes;
    }
  }
  for (std::size_t i = 1; i < size; ++i) {
    alive[i] += alive[i - 1];
    if (alive[i] < alive[valley_]) valley_ = i;
  }
}

void PlannedStep::set_addresses() {
  std::vector<char*> of_place(num_places_);
  for (const Slot& slot : slots_) {
    if (slot.place == kNoPlace) continue;
    const auto arena = std::find_if(arenas_.rbegin(), arenas_.rend(),
                                    [&](const Arena& candidate) { return candidate.first_unit <= slot.unit; });
    of_place[slot.place] = arena->data + (slot.unit - arena->first_unit) * kAlignment;
  }
  for (Planned& planned : requests_)
    if (planned.place != kNoPlace) planned.data = of_place[planned.place];
}

PlannedStep::PlaceNumber PlannedStep::find(const void* address, bool* inside) const {
  const auto wanted = reinterpret_cast<std::uintptr_t>(address);
  for (const Arena& arena : arenas_) {
    const std::uint64_t offset = wanted - reinterpret_cast<std::uintptr_t>(arena.data);
    if (offset >= arena.num_bytes) continue;  // also of addresses before it
    *inside = true;
    return offset % kAlignment == 0 ? slots_[slot_of(arena.first_unit + offset / kAlignment)].place : kNoPlace;
  }
  *inside = false;
  return kNoPlace;
}

}  // namespace pyparallel::memory
