// A device of pure bookkeeping: streams with vector clocks, so that a history of uses is proven free of races or the
// two uses that race are printed.
//
// A use happens before another if the other's stream knows of it: it came earlier in the same stream, through an event
// that the stream waits for, or through the host, which saw an event pass before it enqueued the other.
#pragma once
#include <algorithm>
#include <map>
#include <sstream>
#include <stdexcept>
#include <vector>

#include "memory/upstream.hpp"

class StreamWorld {
 public:
  using Clock = std::map<std::uint64_t, std::uint64_t>;  // by stream: how many of its operations are known to be over
  struct Mark {
    std::uint64_t stream, operation;
    Clock clock;
  };

  // An operation of `stream` reads or writes [data, data + num_bytes). Throws with both uses if they race.
  void touch(std::uint64_t stream, const char* data, std::uint64_t num_bytes, const std::string& what) {
    Clock& clock = enqueue(stream);
    const std::uint64_t operation = clock[stream];
    const auto first = reinterpret_cast<std::uintptr_t>(data) / kUnit;
    const auto last = (reinterpret_cast<std::uintptr_t>(data) + std::max<std::uint64_t>(num_bytes, 1) - 1) / kUnit;
    for (auto unit = first; unit <= last; ++unit) {
      for (const auto& [other, use] : uses_[unit]) {
        if (clock[other] >= use.operation) continue;
        std::ostringstream message;
        message << "race: " << what << " (stream " << stream << ", operation " << operation << ") and " << use.what
                << " (stream " << other << ", operation " << use.operation << ") at unit " << unit;
        throw std::logic_error(message.str());
      }
      uses_[unit][stream] = {operation, what};
    }
  }

  std::uint64_t record(std::uint64_t stream) {
    Clock& clock = enqueue(stream);
    marks_.push_back({stream, clock[stream], clock});
    return marks_.size() - 1;
  }
  bool passed(std::uint64_t event) {
    const Mark& mark = marks_.at(event);
    if (done_[mark.stream] < mark.operation) return false;
    merge(host_, mark.clock);
    return true;
  }
  void wait(std::uint64_t stream, std::uint64_t event) { merge(clocks_[stream], marks_.at(event).clock); }
  void synchronize() {
    for (const auto& [stream, clock] : clocks_) finish(clock);
    merge(host_, done_);
  }
  // The device goes on: the stream's work up to now is over, and what it waited for.
  void finish_stream(std::uint64_t stream) { finish(Clock(clocks_[stream])); }

 private:
  static constexpr std::uint64_t kUnit = pyparallel::memory::kAlignment;
  struct Use {
    std::uint64_t operation;
    std::string what;
  };

  Clock& enqueue(std::uint64_t stream) {
    Clock& clock = clocks_[stream];
    merge(clock, host_);
    ++clock[stream];
    return clock;
  }
  void finish(const Clock& clock) { merge(done_, clock); }
  static void merge(Clock& into, const Clock& from) {
    for (const auto& [stream, operation] : from) into[stream] = std::max(into[stream], operation);
  }

  std::map<std::uint64_t, Clock> clocks_;
  Clock host_, done_;
  std::vector<Mark> marks_;
  std::map<std::uintptr_t, std::map<std::uint64_t, Use>> uses_;  // by unit and stream: the latest
};

// Memory of a StreamWorld: addresses that nobody reads, up to `capacity` bytes, in separate allocations.
class SimulatedUpstream : public pyparallel::memory::Upstream {
 public:
  SimulatedUpstream(StreamWorld& world, std::uint64_t capacity) : world_(world), left_(capacity) {}
  const char* name() const override { return "simulated"; }
  std::uint64_t granularity() const override { return 2 << 20; }
  char* allocate(std::uint64_t num_bytes) override {
    if (num_bytes > left_) return nullptr;
    left_ -= num_bytes;
    char* const data = reinterpret_cast<char*>(next_);
    next_ += num_bytes + granularity();
    return data;
  }
  bool extend(char*, std::uint64_t) override { return false; }
  void release(char*, std::uint64_t num_bytes) noexcept override { left_ += num_bytes; }
  pyparallel::memory::StreamId identity(pyparallel::memory::Stream stream) override { return stream; }
  pyparallel::memory::Event record(pyparallel::memory::Stream stream) override {
    ++open_events;
    return world_.record(stream);
  }
  bool passed(pyparallel::memory::Event event) override { return world_.passed(event); }
  void wait(pyparallel::memory::Stream stream, pyparallel::memory::Event event) override { world_.wait(stream, event); }
  void synchronize() override {
    ++synchronizations;
    world_.synchronize();
  }
  void destroy(pyparallel::memory::Event) noexcept override { --open_events; }

  int open_events = 0, synchronizations = 0;

 private:
  StreamWorld& world_;
  std::uint64_t left_;
  std::uintptr_t next_ = std::uintptr_t{1} << 40;
};
