// Memory of a StreamWorld for a pool: addresses that nobody reads. It can be told to lie, as a test of the tests.
#pragma once
#include <limits>

#include "memory/stream_world.hpp"

// What a pool could get wrong, done by the upstream in its place.
enum class Lie {
  kNone,
  kEventsPassAtOnce,      // an event is said to have passed whatever the stream does
  kStreamsDoNotWait,      // a stream that should wait for an event does not
  kNobodySynchronizes,    // the device is said to be idle
  kHandlesAreIdentities,  // a stream's handle is taken for the stream
  kNothingIsCaptured,     // a stream is said to take events while it is captured
};

class SimulatedUpstream : public pyparallel::memory::Upstream {
 public:
  using Event = pyparallel::memory::Event;
  using Stream = pyparallel::memory::Stream;

  // At most `capacity` bytes. `pages`: allocations grow at their end, and single pages come and go.
  SimulatedUpstream(StreamWorld& world, std::uint64_t capacity, bool pages = false, Lie lie = Lie::kNone)
      : world_(world), left_(capacity), pages_(pages), lie_(lie) {}

  const char* name() const override { return "simulated"; }
  std::uint64_t granularity() const override { return 2 << 20; }
  char* allocate(std::uint64_t num_bytes) override {
    if (num_bytes > left_) return nullptr;
    return hold(world_.new_addresses(), num_bytes);
  }
  bool extend(char* end, std::uint64_t num_bytes) override {
    return pages_ && num_bytes <= left_ && hold(end, num_bytes) != nullptr;
  }
  void release(char* data, std::uint64_t num_bytes) noexcept override {
    for (auto hole = holes_.lower_bound(data); hole != holes_.end() && hole->first < data + num_bytes;) {
      held += hole->second, left_ -= hole->second;  // given back already
      hole = holes_.erase(hole);
    }
    give_up(data, num_bytes);
  }
  bool release_pages(char* data, std::uint64_t num_bytes) noexcept override {
    if (!pages_) return false;
    for (std::uint64_t page = 0; page < num_bytes; page += granularity()) holes_[data + page] = granularity();
    give_up(data, num_bytes);
    return true;
  }
  bool restore_pages(char* data, std::uint64_t num_bytes) override {
    if (!pages_ || num_bytes > left_) return false;
    for (std::uint64_t page = 0; page < num_bytes; page += granularity())
      if (holes_.erase(data + page) == 0) throw Misuse("a page is restored that is there");
    hold(data, num_bytes);
    return true;
  }

  pyparallel::memory::StreamId identity(Stream stream) override {
    return lie_ == Lie::kHandlesAreIdentities ? stream : world_.identity(stream);
  }
  bool capturing(Stream stream) override { return lie_ != Lie::kNothingIsCaptured && world_.capturing(stream); }
  Event record(Stream stream) override {
    if (world_.capturing(stream)) throw Misuse("the pool records an event on a captured stream");
    return world_.record(stream);
  }
  bool passed(Event event) override { return lie_ == Lie::kEventsPassAtOnce || world_.passed(event); }
  void wait(Stream stream, Event event) override {
    if (lie_ != Lie::kStreamsDoNotWait) world_.wait(stream, event);
  }
  bool await(Event event) override {
    ++waits;
    if (lie_ != Lie::kNobodySynchronizes) world_.await(event);
    return true;
  }
  // Refused while a stream is captured, as on a device: whoever could have waited for events has lost that capture.
  bool synchronize() override {
    ++waits;
    if (world_.capturing() && lost_a_stream) return false;
    if (lie_ != Lie::kNobodySynchronizes) world_.synchronize();
    return true;
  }
  void destroy(Event event) noexcept override {
    try {
      world_.destroy(event);
    } catch (const std::exception& error) {
      world_.report(error.what());
    }
  }

  std::uint64_t left() const { return left_; }
  std::uint64_t held = 0, held_peak = 0;  // bytes
  int waits = 0;                          // of the host
  bool lost_a_stream = false;             // one was destroyed, and the pool was not told

 private:
  char* hold(char* data, std::uint64_t num_bytes) {
    left_ -= num_bytes;
    held += num_bytes;
    held_peak = std::max(held_peak, held);
    world_.map(data, num_bytes);
    return data;
  }
  void give_up(char* data, std::uint64_t num_bytes) noexcept {
    left_ += num_bytes;
    held -= num_bytes;
    try {
      world_.unmap(data, num_bytes, "release to the upstream");
    } catch (const std::exception& error) {
      world_.report(error.what());
    }
  }

  StreamWorld& world_;
  std::uint64_t left_;
  const bool pages_;
  const Lie lie_;
  std::map<char*, std::uint64_t> holes_;  // pages given back
};
