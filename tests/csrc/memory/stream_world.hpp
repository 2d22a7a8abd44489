// A device of pure bookkeeping: streams, events, memory and graphs, on which a history of uses is proven free of races,
// or the two uses that race are printed with the order that is missing between them (vector_clocks.hpp).
//
// Orders come from a stream itself, from events that streams wait for, and from the host, which saw an event pass
// before it enqueued the next operation. What the device has in fact done (`finish_stream`) orders nothing: nobody
// knows of it.
#pragma once
#include <mutex>
#include <optional>
#include <vector>

#include "memory/upstream.hpp"
#include "memory/vector_clocks.hpp"

// A handle or an address used that is not there, or not now.
struct Misuse : std::logic_error {
  using std::logic_error::logic_error;
};

// Of one host; any thread may call.
class StreamWorld {
 public:
  using Stream = pyparallel::memory::Stream;
  using Event = pyparallel::memory::Event;

  // ---- streams: a handle not seen before is a new stream's; those of destroyed streams are given again ----

  Stream create_stream() {
    Guard guard(mutex_);
    const Stream handle = recycled_.empty() ? next_handle_ : recycled_.back();
    if (!recycled_.empty()) recycled_.pop_back();
    numbers_.erase(handle);
    number_of(handle, "it is created");
    return handle;
  }
  // Its work goes on, its handle is nobody's.
  void destroy_stream(Stream handle) {
    Guard guard(mutex_);
    number_of(handle, "it is destroyed again");
    numbers_[handle] = kNobody;
    recycled_.push_back(handle);
  }
  StreamNumber identity(Stream handle) {
    Guard guard(mutex_);
    return number_of(handle, "its identity is asked for");
  }

  // ---- memory ----

  // The first of 64 GiB that nobody else gets.
  char* new_addresses() {
    Guard guard(mutex_);
    return reinterpret_cast<char*>(next_address_ += std::uintptr_t{1} << 36);
  }
  void map(const char* data, std::uint64_t num_bytes) {
    Guard guard(mutex_);
    mapped_[address(data)] = address(data) + num_bytes;
  }
  // The host takes [data, data + num_bytes) away: all uses must be known to it.
  void unmap(const char* data, std::uint64_t num_bytes, const std::string& what) {
    Guard guard(mutex_);
    const std::uintptr_t first = address(data), end = first + num_bytes;
    real_.use_by_host(first, end, what);
    for (auto region = mapped_.lower_bound(first); region != mapped_.end() && region->first < end;) {
      const std::uintptr_t old_end = region->second;
      region = mapped_.erase(region);
      if (old_end > end) mapped_[end] = old_end;
    }
    if (auto region = mapped_.lower_bound(first); region != mapped_.begin() && (--region)->second > first) {
      if (region->second > end) mapped_[end] = region->second;
      region->second = first;
    }
  }
  // An operation of the stream reads or writes [data, data + num_bytes). Throws with both uses if they race.
  void touch(Stream handle, const char* data, std::uint64_t num_bytes, const std::string& what) {
    Guard guard(mutex_);
    touch_range(handle, address(data), address(data) + std::max<std::uint64_t>(num_bytes, 1), what);
  }

  // ---- events ----

  Event record(Stream handle) {
    Guard guard(mutex_);
    const StreamNumber stream = number_of(handle, "an event is recorded");
    const std::size_t capture = capture_of(stream);
    const Clock& clock = timeline(capture).enqueue(stream);
    marks_[next_mark_] = {stream, clock.at(stream), capture, clock};
    return next_mark_++;
  }
  bool passed(Event event) {
    Guard guard(mutex_);
    const Mark& mark = mark_of(event);
    if (mark.capture != kReal) throw Misuse("the host asks for an event of a capture");
    if (done_[mark.stream] < mark.operation) return false;
    merge(real_.host, mark.clock);
    return true;
  }
  void wait(Stream handle, Event event) {
    Guard guard(mutex_);
    const StreamNumber stream = number_of(handle, "it waits for an event");
    const Mark& mark = mark_of(event);
    if (mark.capture == kReal && capture_of(stream) != kReal)
      throw Misuse("stream " + names_[stream] + " is captured and waits for an event outside");
    if (mark.capture != kReal) capturing_[stream] = mark.capture;  // joins
    merge(timeline(mark.capture).clocks[stream], mark.clock);
  }
  void destroy(Event event) {
    Guard guard(mutex_);
    mark_of(event);
    marks_.erase(event);
  }
  std::size_t open_events() {
    Guard guard(mutex_);
    return marks_.size();
  }
  // `handle`'s later work waits for all that is in `other` now.
  void order(Stream handle, Stream other) {
    const Event event = record(other);
    wait(handle, event);
    destroy(event);
  }
  // The host waits for it.
  void await(Event event) {
    Guard guard(mutex_);
    const Mark& mark = mark_of(event);
    if (mark.capture != kReal) throw Misuse("the host waits for an event of a capture");
    merge(done_, mark.clock);
    merge(real_.host, mark.clock);
  }
  // The host waits for everything.
  void synchronize() {
    Guard guard(mutex_);
    if (!capturing_.empty()) throw Misuse("the host waits for the device while a stream is captured");
    for (const auto& [stream, clock] : real_.clocks) merge(done_, clock);
    merge(real_.host, done_);
  }
  // The device goes on: the stream's work up to now is over, and what it waited for. Nobody has been told.
  void finish_stream(Stream handle) {
    Guard guard(mutex_);
    merge(done_, Clock(real_.clocks[number_of(handle, "it is finished")]));
  }

  // ---- graphs: what a captured stream is given is done when the graph is launched, each time ----

  void begin_capture(Stream handle) {
    Guard guard(mutex_);
    graphs_.emplace_back();
    capturing_[number_of(handle, "it is captured")] = graphs_.size();
  }
  std::size_t end_capture(Stream handle) {
    Guard guard(mutex_);
    const std::size_t graph = capture_of(number_of(handle, "its capture ends"));
    std::erase_if(capturing_, [&](const auto& entry) { return entry.second == graph; });
    return graph;
  }
  bool capturing(Stream handle) {
    Guard guard(mutex_);
    return capture_of(number_of(handle, "is it captured?")) != kReal;
  }
  bool capturing() {
    Guard guard(mutex_);
    return !capturing_.empty();
  }
  void launch(std::size_t graph, Stream handle) {
    Guard guard(mutex_);
    for (const auto& [first, end, what] : graphs_.at(graph - 1).touches)
      touch_range(handle, first, end, "graph " + std::to_string(graph) + ": " + what);
  }

  // ---- faults seen where nothing can be thrown ----

  void report(const std::string& fault) {
    Guard guard(mutex_);
    if (fault_.empty()) fault_ = fault;
  }
  void check() {
    Guard guard(mutex_);
    if (!fault_.empty()) throw Race(fault_);
  }

 private:
  using Guard = std::lock_guard<std::mutex>;
  static constexpr StreamNumber kNobody = ~StreamNumber{0};
  static constexpr std::size_t kReal = 0;  // no capture
  struct Mark {
    StreamNumber stream;
    std::uint64_t operation;
    std::size_t capture;
    Clock clock;
  };
  struct Touch {
    std::uintptr_t first, end;
    std::string what;
  };
  struct Graph {
    Timeline timeline;
    std::vector<Touch> touches;
  };

  static std::uintptr_t address(const char* data) { return reinterpret_cast<std::uintptr_t>(data); }
  StreamNumber number_of(Stream handle, const std::string& what) {
    const auto [entry, is_new] = numbers_.try_emplace(handle, next_number_);
    if (entry->second == kNobody) throw Misuse("stream " + std::to_string(handle) + " was destroyed: " + what);
    if (is_new) {
      const int life = ++lives_[handle];
      names_[next_number_++] = std::to_string(handle) + (life > 1 ? " of life " + std::to_string(life) : "");
      next_handle_ = std::max(next_handle_, handle + 1);
    }
    return entry->second;
  }
  std::size_t capture_of(StreamNumber stream) const {
    const auto found = capturing_.find(stream);
    return found == capturing_.end() ? kReal : found->second;
  }
  Timeline& timeline(std::size_t capture) { return capture == kReal ? real_ : graphs_.at(capture - 1).timeline; }
  const Mark& mark_of(Event event) const {
    const auto found = marks_.find(event);
    if (found == marks_.end()) throw Misuse("event " + std::to_string(event) + " was destroyed");
    return found->second;
  }
  bool holds(std::uintptr_t first, std::uintptr_t end) const {
    while (first < end) {
      const auto after = mapped_.upper_bound(first);
      if (after == mapped_.begin() || std::prev(after)->second <= first) return false;
      first = std::prev(after)->second;
    }
    return true;
  }
  void touch_range(Stream handle, std::uintptr_t first, std::uintptr_t end, const std::string& what) {
    const StreamNumber stream = number_of(handle, what);
    if (!holds(first, end)) {
      std::ostringstream message;
      message << what << " touches " << end - first << " bytes at " << reinterpret_cast<const void*>(first)
              << ", which the upstream does not hold";
      throw Misuse(message.str());
    }
    const std::size_t capture = capture_of(stream);
    timeline(capture).use(stream, names_[stream], first, end, what);
    if (capture != kReal) graphs_.at(capture - 1).touches.push_back({first, end, what});
  }

  std::mutex mutex_;  // guards all below
  std::map<Stream, StreamNumber> numbers_;
  std::map<StreamNumber, std::string> names_;
  std::map<Stream, int> lives_;
  std::vector<Stream> recycled_;
  Stream next_handle_ = 1;
  StreamNumber next_number_ = 1000;  // no handle: who takes one for the other is seen
  Timeline real_;
  Clock done_;
  std::map<Event, Mark> marks_;
  Event next_mark_ = 1;
  std::uintptr_t next_address_ = std::uintptr_t{1} << 40;
  std::map<std::uintptr_t, std::uintptr_t> mapped_;  // end by first address
  std::map<StreamNumber, std::size_t> capturing_;
  std::vector<Graph> graphs_;
  std::string fault_;
};
