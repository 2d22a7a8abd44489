// What a step asks for, written down over two steps, so that what repeats can be placed beforehand.
//
// Two steps in a row that make the same requests in the same order are taken for a period. Threads that disturb the
// order (a loader, a logger) are left out: the thread that marks the steps comes first, others join it with the most
// bytes first as long as both steps still agree. The moments of frees need not agree: the later one counts.
#pragma once
#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include "memory/upstream.hpp"

namespace pyparallel::memory {

using ThreadNumber = std::uint32_t;  // of a thread in the process

struct Request {
  std::uint64_t num_bytes;  // a multiple of kAlignment
  StreamId stream;
  bool operator==(const Request&) const = default;
};

// One period. Time is counted in its requests: a block with `death` d is freed before request d is made, and one with d
// beyond the number of requests lives over the end of the step until request d - requests.size() of the next.
struct Period {
  std::vector<Request> requests;
  std::vector<std::uint64_t> deaths;  // 0: the block is not periodic, or another stream uses it
  std::vector<ThreadNumber> threads;  // whose requests these are
};

class Recording {
 public:
  static constexpr std::uint64_t kMostRequests = 1 << 20;  // a longer step is not planned

  void begin();
  void end();
  // Within a step.
  void allocated(const void* data, const Request& request, ThreadNumber thread);
  // At any time.
  void used(const void* data);  // by another stream than its own
  void freed(const void* data);
  // After the end of a step: what it has in common with the step before, if the marking thread's requests agree.
  std::optional<Period> period(ThreadNumber marker) const;
  void clear() { *this = {}; }

 private:
  static constexpr std::uint64_t kNever = ~std::uint64_t{0};
  struct Entry {
    Request request;
    ThreadNumber thread;
    bool shared;
    std::uint64_t freed;       // how many requests of its own step came before the free, or kNever
    std::uint64_t freed_next;  // likewise of the next step
  };
  using Step = std::vector<Entry>;
  struct Place {
    std::uint64_t step;
    std::size_t entry;
  };

  Entry* find(const void* data);
  std::vector<ThreadNumber> agreeing_threads(ThreadNumber marker) const;

  Step previous_, current_;
  std::uint64_t steps_ = 0;  // begun; the current one's number
  bool ended_ = false;       // the current step
  std::unordered_map<const void*, Place> live_;
};

}  // namespace pyparallel::memory
