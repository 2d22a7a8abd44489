// Writing and reading entries, and the graph of who waits for whom.
#include "comm/shm/flight_record.hpp"

#include <algorithm>

#include "comm/shm/collective.hpp"
#include "comm/shm/control.hpp"
#include "core/clock.hpp"

namespace pyparallel::shm {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

std::string rank_name(int rank) { return rank < 0 ? "any rank" : "rank " + std::to_string(rank); }

std::vector<FlightLog::Wait> waits_of(ControlBlock& control, int rank) {
  std::vector<FlightLog::Wait> waits;
  for (const Lane lane : {Lane::kCollectives, Lane::kMessages}) {
    const FlightLog::Wait wait = control.rank(rank).flights.waiting(lane);
    if (wait.number != 0) waits.push_back(wait);
  }
  return waits;
}

// The ranks from the first that the path meets again, or nothing.
bool find_circle(ControlBlock& control, std::vector<int>& path, std::vector<bool>& seen) {
  for (const FlightLog::Wait& wait : waits_of(control, path.back())) {
    const auto again = std::find(path.begin(), path.end(), wait.rank);
    if (again != path.end()) {
      path.erase(path.begin(), again);
      return true;
    }
    if (wait.rank < 0 || seen[static_cast<std::size_t>(wait.rank)]) continue;
    seen[static_cast<std::size_t>(wait.rank)] = true;
    path.push_back(wait.rank);
    if (find_circle(control, path, seen)) return true;
    path.pop_back();
  }
  return false;
}

}  // namespace

const char* kind_name(std::uint8_t kind) {
  if (kind == kSendKind) return "send";
  return kind == kRecvKind ? "recv" : name(static_cast<Kind>(kind));
}

const char* name(FlightState state) {
  constexpr const char* kNames[] = {"submitted", "started", "completed", "failed"};
  return kNames[static_cast<int>(state)];
}

std::string describe(const Flight& f) {
  if (f.number == 0) return "an operation long ago";
  const bool message = f.kind == kSendKind || f.kind == kRecvKind;
  std::string text = std::string(kind_name(f.kind)) + "(";
  if (message || static_cast<Kind>(f.kind) != Kind::kBarrier) text += amount(f.count) + " x " + name(f.dtype);
  if (!message && has_root(static_cast<Kind>(f.kind))) text += ", root " + std::to_string(f.peer);
  if (!message) return text + ") #" + std::to_string(f.tag);
  return text + (f.kind == kSendKind ? ", to " : ", from ") + rank_name(f.peer) + ", tag " + std::to_string(f.tag) +
         ")";
}

std::uint64_t FlightLog::submit(std::uint8_t kind, DType dtype, std::uint64_t count, int peer, std::uint32_t tag) {
  const std::uint64_t number = submitted_.fetch_add(1, kRelaxed) + 1;
  Entry& e = entry(number);
  e.number.store(0, std::memory_order_release);
  e.count.store(count, kRelaxed);
  e.submitted_ns.store(now_ns(), kRelaxed);
  e.started_ns.store(0, kRelaxed);
  e.ended_ns.store(0, kRelaxed);
  e.tag.store(tag, kRelaxed);
  e.peer.store(peer, kRelaxed);
  e.kind.store(kind, kRelaxed);
  e.dtype.store(static_cast<std::uint8_t>(dtype), kRelaxed);
  e.state.store(static_cast<std::uint8_t>(FlightState::kSubmitted), kRelaxed);
  e.number.store(number, std::memory_order_release);
  return number;
}

void FlightLog::start(std::uint64_t number) {
  Entry& e = entry(number);
  if (e.number.load(kRelaxed) != number) return;  // longer ago than the record remembers
  e.started_ns.store(now_ns(), kRelaxed);
  e.state.store(static_cast<std::uint8_t>(FlightState::kStarted), kRelaxed);
}

void FlightLog::end(std::uint64_t number, bool failed) {
  Entry& e = entry(number);
  if (e.number.load(kRelaxed) != number) return;
  e.ended_ns.store(now_ns(), kRelaxed);
  e.state.store(static_cast<std::uint8_t>(failed ? FlightState::kFailed : FlightState::kCompleted), kRelaxed);
}

void FlightLog::wait_for(Lane lane, std::uint64_t number, int rank) {
  Waiting& waiting = waiting_[static_cast<int>(lane)];
  if (waiting.number.load(kRelaxed) == number && waiting.rank.load(kRelaxed) == rank) return;
  waiting.number.store(0, kRelaxed);
  waiting.rank.store(rank, kRelaxed);
  waiting.since_ns.store(now_ns(), kRelaxed);
  waiting.number.store(number, std::memory_order_release);
}

Flight FlightLog::read(std::uint64_t number) const {
  const Entry& e = entries_[number % kFlightEntries];
  if (number == 0 || e.number.load(std::memory_order_acquire) != number) return {};
  Flight f{number,
           e.kind.load(kRelaxed),
           static_cast<DType>(e.dtype.load(kRelaxed)),
           static_cast<FlightState>(e.state.load(kRelaxed)),
           e.count.load(kRelaxed),
           e.peer.load(kRelaxed),
           e.tag.load(kRelaxed),
           e.submitted_ns.load(kRelaxed),
           e.started_ns.load(kRelaxed),
           e.ended_ns.load(kRelaxed)};
  if (e.number.load(std::memory_order_acquire) != number) f.number = 0;
  return f;
}

std::vector<Flight> FlightLog::last() const {
  std::vector<Flight> flights;
  const std::uint64_t newest = submitted_.load(std::memory_order_acquire);
  for (std::uint64_t n = newest < kFlightEntries ? 1 : newest - kFlightEntries + 1; n <= newest; ++n) {
    const Flight flight = read(n);
    if (flight.number != 0) flights.push_back(flight);
  }
  return flights;
}

FlightLog::Wait FlightLog::waiting(Lane lane) const {
  const Waiting& waiting = waiting_[static_cast<int>(lane)];
  return {waiting.number.load(std::memory_order_acquire), waiting.rank.load(kRelaxed), waiting.since_ns.load(kRelaxed)};
}

std::string who_waits(ControlBlock& control) {
  constexpr int kNamed = 8;  // one line
  std::string text;
  int named = 0;
  const int world_size = static_cast<int>(control.world_size);
  for (int r = 0; r < world_size; ++r) {
    if (++named > kNamed) continue;
    const FlightLog& log = control.rank(r).flights;
    const auto waits = waits_of(control, r);
    text += (r == 0 ? "" : "; ") + rank_name(r);
    for (const FlightLog::Wait& wait : waits)
      text += " waits for " + rank_name(wait.rank) + " in " + describe(log.read(wait.number));
    const auto last = log.last();
    if (waits.empty())
      text += last.empty() ? " has called nothing" : " is elsewhere, its last call was " + describe(last.back());
  }
  if (named > kNamed) text += "; and " + std::to_string(named - kNamed) + " ranks more";
  std::vector<bool> seen(static_cast<std::size_t>(world_size), false);
  for (int r = 0; r < world_size; ++r) {
    std::vector<int> path{r};
    if (seen[static_cast<std::size_t>(r)] || !find_circle(control, path, seen)) continue;
    text += "\nranks wait for each other in a circle:";
    for (int member : path) text += " " + std::to_string(member) + " ->";
    return text + " " + std::to_string(path.front());
  }
  return text;
}

}  // namespace pyparallel::shm
