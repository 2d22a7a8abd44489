// The flight record: the last operations of every rank and whom it waits for, where every other rank can read it.
#pragma once
#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "core/dtype.hpp"

namespace pyparallel::shm {

struct ControlBlock;

inline constexpr std::uint64_t kFlightEntries = 64;
inline constexpr std::uint8_t kSendKind = 128, kRecvKind = 129;  // beside the collectives' Kind

enum class FlightState : std::uint8_t { kSubmitted, kStarted, kCompleted, kFailed };
enum class Lane { kCollectives, kMessages };

// One operation in plain words.
struct Flight {
  std::uint64_t number;  // of this rank's operations, from 1; 0 if there is none
  std::uint8_t kind;
  DType dtype;
  FlightState state;
  std::uint64_t count;
  std::int32_t peer;  // root, destination or source
  std::uint32_t tag;  // of a message; its place in the common order for a collective
  std::int64_t submitted_ns, started_ns, ended_ns;
};

std::string describe(const Flight& flight);
const char* kind_name(std::uint8_t kind);
const char* name(FlightState state);

// Written by its rank with relaxed stores, read by others at any time: an entry that is being replaced reads as none.
class FlightLog {
 public:
  std::uint64_t submit(std::uint8_t kind, DType dtype, std::uint64_t count, int peer, std::uint32_t tag);
  void start(std::uint64_t number);
  void end(std::uint64_t number, bool failed);
  // Whom the operation waits for now, for those who ask later; rank -1: anybody. Number 0: nothing any more.
  void wait_for(Lane lane, std::uint64_t number, int rank);

  Flight read(std::uint64_t number) const;
  std::vector<Flight> last() const;  // the oldest first
  struct Wait {
    std::uint64_t number;  // 0: none
    int rank;
    std::int64_t since_ns;
  };
  Wait waiting(Lane lane) const;

 private:
  struct Entry {
    std::atomic<std::uint64_t> number, count;
    std::atomic<std::int64_t> submitted_ns, started_ns, ended_ns;
    std::atomic<std::uint32_t> tag;
    std::atomic<std::int32_t> peer;
    std::atomic<std::uint8_t> kind, dtype, state;
  };
  struct Waiting {
    std::atomic<std::uint64_t> number;
    std::atomic<std::int64_t> since_ns;
    std::atomic<std::int32_t> rank;
  };
  Entry& entry(std::uint64_t number) { return entries_[number % kFlightEntries]; }

  std::atomic<std::uint64_t> submitted_;
  Waiting waiting_[2];
  Entry entries_[kFlightEntries];
};

// Who waits for whom, on one line; a circle is named on a second.
std::string who_waits(ControlBlock& control);

}  // namespace pyparallel::shm
