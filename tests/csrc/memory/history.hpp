// Random histories of pools on several streams and threads, each proven free of races by a StreamWorld or found faulty.
//
// The caller of these histories keeps the pool's contract and no more: it orders its own uses of a block, names other
// streams with use(), and frees at any time. Whatever then races is the pool's fault.
#pragma once
#include <condition_variable>
#include <functional>
#include <iostream>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "core/error.hpp"
#include "memory/simulated_upstream.hpp"

enum class Do {
  kAllocate,
  kUse,
  kUseAndComeBack,
  kCopy,
  kFree,
  kFreeElsewhere,
  kFinish,
  kRenew,
  kCapture,
  kTrim,
  kEndThread
};

// One step. What names a block that is not live is left out, so that any part of a history is a history.
struct Step {
  int number;
  Do what;
  unsigned pool, thread, stream;
  int block;  // the number of the step that allocates it
  std::uint64_t num_bytes;
};

inline std::ostream& operator<<(std::ostream& out, const Step& step) {
  static const char* const names[] = {
      "allocate", "use",          "use and come back",    "copy", "free",      "free elsewhere",
      "finish",   "renew stream", "begin or end capture", "trim", "end thread"};
  return out << "  " << step.number << " " << names[static_cast<int>(step.what)] << ": pool " << step.pool
             << ", thread " << step.thread << ", stream " << step.stream << ", block " << step.block << ", "
             << step.num_bytes << " bytes\n";
}

inline std::vector<Step> random_history(std::mt19937_64& random, int steps, std::uint64_t largest) {
  static const int weights[] = {40, 10, 4, 4, 20, 8, 8, 1, 1, 1, 1};
  std::discrete_distribution<int> what(std::begin(weights), std::end(weights));
  std::vector<Step> history;
  std::vector<int> live;
  for (int i = 0; i < steps; ++i) {
    const std::uint64_t below = largest >> random() % 14;
    const unsigned thread = random() % 4 == 0 ? random() % 3 : 0;
    Step step = {i,
                 static_cast<Do>(what(random)),
                 random() % 4 == 0,
                 thread,
                 static_cast<unsigned>(random() % 4),
                 -1,
                 random() % below};
    if (!live.empty()) {
      std::swap(live[random() % live.size()], live.back());
      step.block = live.back();
      if (step.what == Do::kFree || step.what == Do::kFreeElsewhere) live.pop_back();
    }
    if (step.what == Do::kAllocate) live.push_back(step.block = i);
    history.push_back(step);
  }
  return history;
}

inline std::vector<Step> without_captures(std::vector<Step> history) {
  std::erase_if(history, [](const Step& step) { return step.what == Do::kCapture; });
  return history;
}

// A thread that does one thing at a time for another.
class Helper {
 public:
  void run(const std::function<void()>& work) {
    std::exception_ptr failure;
    std::unique_lock<std::mutex> lock(mutex_);
    if (!thread_.joinable()) thread_ = std::thread([this] { serve(); });
    work_ = [&] {
      try {
        work();
      } catch (...) {
        failure = std::current_exception();
      }
    };
    changed_.notify_all();
    changed_.wait(lock, [&] { return !work_; });
    if (failure) std::rethrow_exception(failure);
  }
  void end() {
    if (!thread_.joinable()) return;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      ending_ = true;
      changed_.notify_all();
    }
    thread_.join();
    ending_ = false;
  }
  ~Helper() { end(); }

 private:
  void serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      changed_.wait(lock, [&] { return work_ || ending_; });
      if (!work_) return;
      work_();
      work_ = nullptr;
      changed_.notify_all();
    }
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  std::function<void()> work_;
  bool ending_ = false;
  std::thread thread_;
};

struct Setting {
  std::uint64_t capacity = 1 << 30;  // of each of the two pools
  bool pages = false;                // the upstream's come and go singly
  Lie lie = Lie::kNone;
};

// What a history came to: nothing wrong, or the fault in words.
struct Outcome {
  std::string fault;
  int out_of_memory = 0, waits = 0;
  std::uint64_t cross_stream_reuses = 0;
};

template <class Pool>
class HistoryRun {
 public:
  HistoryRun(const Setting& setting) {
    for (int i = 0; i < 2; ++i) {
      auto upstream = std::make_unique<SimulatedUpstream>(world_, setting.capacity, setting.pages, setting.lie);
      upstreams_.push_back(upstream.get());
      pools_.push_back(std::make_unique<Pool>(std::move(upstream)));
    }
    for (auto& stream : streams_) stream = world_.create_stream();
  }

  Outcome run(const std::vector<Step>& history) {
    try {
      for (const Step& next : history) {
        number_ = next.number;
        step(next);
        world_.check();
        check_statistics();
      }
      end();
    } catch (const std::exception& error) {
      outcome_.fault = error.what();
    }
    return outcome_;
  }

 private:
  struct Live {
    unsigned pool;
    char* data;
    std::uint64_t num_bytes;
    unsigned own;               // its stream
    std::set<unsigned> others;  // that the pool was told of
    unsigned last;              // user, whose work comes after all others'
    bool at_rest = false;       // a stream of it was destroyed: it is only freed
  };

  std::string name(const char* what) const { return std::string(what) + " in step " + std::to_string(number_); }
  static std::uint64_t rounded(std::uint64_t num_bytes) {
    const std::uint64_t unit = pyparallel::memory::kAlignment;
    return std::max<std::uint64_t>((num_bytes + unit - 1) / unit, 1) * unit;
  }
  void on(unsigned thread, const std::function<void()>& work) { thread == 0 ? work() : helpers_[thread - 1].run(work); }

  void step(const Step& step) {
    if (step.what == Do::kCapture) return capture(step.stream, step.num_bytes % 2 == 0);
    if (captured_.count(step.stream) > 0 && step.what != Do::kFree) return;  // what it is given is for its graph
    switch (step.what) {
      case Do::kAllocate:
        return on(step.thread, [&] { allocate(step); });
      case Do::kFinish:
        return world_.finish_stream(streams_[step.stream]);
      case Do::kRenew:
        return renew(step.stream, step.num_bytes % 2 == 0);
      case Do::kTrim:
        return on(step.thread, [&] { pools_[step.pool]->trim(); });
      case Do::kEndThread:
        return step.thread == 0 ? void() : helpers_[step.thread - 1].end();
      default:
        break;
    }
    const auto block = live_.find(step.block);
    if (block == live_.end()) return;
    on(step.thread, [&] {
      switch (step.what) {
        case Do::kUse:
          return use(block->second, step.stream, "use");
        case Do::kUseAndComeBack:
          return use_and_come_back(block->second, step.stream);
        case Do::kCopy:
          return copy(block->second, live_.begin()->second, step.stream);
        case Do::kFreeElsewhere:
          use(block->second, step.stream, "last use");
          [[fallthrough]];
        default:
          return free(block);
      }
    });
  }

  void allocate(const Step& step) {
    Pool& pool = *pools_[step.pool];
    try {
      auto* const data = static_cast<char*>(pool.allocate(step.num_bytes, streams_[step.stream]));
      if (reinterpret_cast<std::uintptr_t>(data) % pyparallel::memory::kAlignment != 0)
        throw Misuse(name("the block") + " is not aligned");
      for (const auto& [number, other] : live_)
        if (data < other.data + rounded(other.num_bytes) && other.data < data + rounded(step.num_bytes))
          throw Misuse(name("the block") + " lies in one that is live");
      live_[step.number] = {step.pool, data, step.num_bytes, step.stream, {}, step.stream};
      live_bytes_[step.pool] += rounded(step.num_bytes);
      world_.touch(streams_[step.stream], data, rounded(step.num_bytes), name("first use"));
    } catch (const pyparallel::OutOfMemoryError&) {
      ++outcome_.out_of_memory;
      if (!captured_.empty()) return;  // nothing can be waited for
      const SimulatedUpstream& upstream = *upstreams_[step.pool];
      if (upstream.left() >= rounded(step.num_bytes) + upstream.granularity())
        throw Misuse(name("allocation") + " fails with " + std::to_string(upstream.left()) + " bytes left to take");
      if (live_bytes_[step.pool] == 0) throw Misuse(name("allocation") + " fails although no block is live");
    }
  }

  void use(Live& block, unsigned stream, const char* what) {
    if (block.at_rest || captured_.count(block.last) > 0 || captured_.count(block.own) > 0) return;
    world_.order(streams_[stream], streams_[block.last]);
    pools_[block.pool]->use(block.data, streams_[stream]);
    world_.touch(streams_[stream], block.data, rounded(block.num_bytes), name(what));
    block.last = stream;
    if (stream != block.own) block.others.insert(stream);
  }
  // The pool need not know of another stream that the block's own waits for.
  void use_and_come_back(Live& block, unsigned stream) {
    if (block.at_rest || captured_.count(block.last) > 0 || captured_.count(block.own) > 0) return;
    world_.order(streams_[stream], streams_[block.last]);
    world_.touch(streams_[stream], block.data, rounded(block.num_bytes), name("use in between"));
    world_.order(streams_[block.own], streams_[stream]);
    block.last = block.own;
  }
  // Blocks of two pools are used by one operation.
  void copy(Live& from, Live& to, unsigned stream) {
    use(from, stream, "copy from");
    use(to, stream, "copy to");
  }
  void free(typename std::map<int, Live>::iterator entry) {
    const Live block = entry->second;
    live_.erase(entry);
    live_bytes_[block.pool] -= rounded(block.num_bytes);
    pools_[block.pool]->free(block.data);
  }
  // Somebody captures a stream into a graph without using the pools, which may never have seen it.
  void capture(unsigned stream, bool seen) {
    if (captured_.insert(stream).second) {
      for (auto& pool : pools_) try {
          if (seen) pool->free(pool->allocate(1, streams_[stream]));
        } catch (const pyparallel::OutOfMemoryError&) {
        }
      return world_.begin_capture(streams_[stream]);
    }
    captured_.erase(stream);
    world_.end_capture(streams_[stream]);
  }
  // The stream is destroyed, and its handle comes back as another's. Either its blocks are freed before, or the pools
  // are told and the blocks are freed at any time.
  void renew(unsigned stream, bool told) {
    for (auto entry = live_.begin(); entry != live_.end();) {
      const auto next = std::next(entry);
      if (entry->second.own == stream || entry->second.others.count(stream) > 0) {
        entry->second.at_rest = true;
        if (!told) free(entry);
      }
      entry = next;
    }
    if (told)
      for (auto& pool : pools_) pool->end_stream(streams_[stream]);
    else
      for (SimulatedUpstream* const upstream : upstreams_) upstream->lost_a_stream = true;
    world_.destroy_stream(streams_[stream]);
    streams_[stream] = world_.create_stream();
  }

  void check_statistics() {
    for (unsigned i = 0; i < 2; ++i) {
      const auto statistics = pools_[i]->statistics();
      check_number("live", statistics.live, live_bytes_[i]);
      check_number("reserved", statistics.reserved, upstreams_[i]->held);
    }
  }
  void check_number(const char* what, std::uint64_t said, std::uint64_t is) const {
    if (said != is)
      throw Misuse(name("after the end") + ": " + what + " is " + std::to_string(is) + ", the pool says " +
                   std::to_string(said));
  }
  void end() {
    while (!captured_.empty()) capture(*captured_.begin(), false);
    while (!live_.empty()) free(live_.begin());
    for (const unsigned i : {1u, 0u}) {
      outcome_.cross_stream_reuses += pools_[i]->statistics().cross_stream_reuses;
      outcome_.waits += upstreams_[i]->waits;
      if (i == 0) {  // the other pool ended as it was
        const std::uint64_t reserved = pools_[i]->statistics().reserved;
        check_number("bytes trimmed", pools_[i]->trim(), reserved);
        check_number("pending", pools_[i]->statistics().pending, 0);
      }
      pools_[i].reset();
    }
    world_.check();
    check_number("events that nobody destroyed", world_.open_events(), 0);
  }

  StreamWorld world_;
  std::vector<SimulatedUpstream*> upstreams_;
  std::vector<std::unique_ptr<Pool>> pools_;
  pyparallel::memory::Stream streams_[4];
  Helper helpers_[2];
  std::set<unsigned> captured_;  // streams
  std::map<int, Live> live_;     // by the number of their step
  std::uint64_t live_bytes_[2] = {0, 0};
  int number_ = 0;
  Outcome outcome_;
};

template <class Pool>
Outcome outcome_of(const std::vector<Step>& history, const Setting& setting) {
  return HistoryRun<Pool>(setting).run(history);
}
