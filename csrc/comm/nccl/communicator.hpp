// One NCCL communicator with a stream of its own: operations in issue order, behind the caller's stream by events.
//
//   caller's stream   ... ready |                      | wait(work) ...
//   comm stream            ...  | start  operation  end|
//
// The host never waits for the device, except in join(), finish() and close(). Nobody waits for a lost rank: a watchdog
// looks at NCCL's asynchronous error and at the oldest operation, ends the communicator with ncclCommAbort, and every
// later call and wait throws why.
#pragma once
#include <atomic>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "comm/nccl/library.hpp"
#include "comm/nccl/work.hpp"
#include "core/dtype.hpp"

namespace pyparallel::nccl {

// NCCL's code; throws InvalidArgument for what it does not have.
DataType data_type(DType dtype);

struct Reduction {
  RedOp op = RedOp::kSum;
  std::optional<double> factor = {};  // kSum alone: of this rank. NCCL rounds it to the dtype
};

// `count` elements. Memory is contiguous, on the communicator's device, and stays until the work has ended.
struct Operand {
  const void* input;
  void* output;
  std::size_t count;
  DType dtype;
};

struct Options {
  double timeout_seconds = 600;
  std::int64_t watch_period_ns = 20'000'000;  // 0: no thread, watch() is called by hand
  std::vector<int> names = {};                // what errors call the ranks; default: their numbers
};

class Communicator {
 public:
  static UniqueId create_unique_id(const Library& library);

  // Begins to join; `id` is the same on all ranks. `library` outlives the communicator.
  Communicator(const Library& library, const UniqueId& id, int rank, int world_size, int device,
               const Options& options);
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  // Waits until all ranks have joined. Throws CollectiveTimeoutError at the deadline, NcclError for the rest. A library
  // before 2.14 has waited in the constructor already.
  void join();

  using WorkPointer = std::shared_ptr<Work>;
  // Operations; `caller` is the stream that has made the input and that waits for the result.
  WorkPointer all_reduce(const Operand& operand, const Reduction& reduction, Stream caller);
  WorkPointer reduce(const Operand& operand, const Reduction& reduction, int root, Stream caller);
  WorkPointer reduce_scatter(const Operand& operand, const Reduction& reduction,
                             Stream caller);                      // count: of the output
  WorkPointer all_gather(const Operand& operand, Stream caller);  // count: of the input
  WorkPointer broadcast(const Operand& operand, int root, Stream caller);
  WorkPointer gather(const Operand& operand, int root, Stream caller);   // count: of a part
  WorkPointer scatter(const Operand& operand, int root, Stream caller);  // likewise
  // `operand.count` is not used: parts follow one another, one per rank, some may be empty.
  WorkPointer all_to_all(const Operand& operand, const std::vector<std::size_t>& output_counts,
                         const std::vector<std::size_t>& input_counts, Stream caller);
  WorkPointer send(const Operand& operand, int peer, Stream caller);
  WorkPointer recv(const Operand& operand, int peer, Stream caller);
  WorkPointer barrier(Stream caller);

  // The communicator of the ranks with this color, ordered by key; null for kNoColor. Collective. Needs NCCL 2.18.
  std::unique_ptr<Communicator> split(int color, int key);

  // ---- failure ----
  // Ends everything: NCCL is aborted, works that have not ended and all later calls throw `error`. The first one
  // counts.
  void fail(std::exception_ptr error);
  // A rank, by its name, has died or failed: fail() with a PeerLostError or PeerFailedError that says what this rank
  // was in.
  void peer_failed(int peer, const std::string& operation, const std::string& cause, bool lost);
  // A peer has left in good order: what needs it and does not end soon throws PeerLostError.
  void peer_left(int peer);
  // One look of the watchdog: asynchronous errors, deadlines, ranks that have left.
  void watch();
  std::exception_ptr error() const;
  // What is in flight: "all_reduce(5 x float32)", or "no operation".
  std::string doing();

  // ---- the end ----
  // Waits until everything in flight has ended; throws CollectiveTimeoutError at the deadline.
  void finish();
  // Frees NCCL's communicator, with an abort if the other ranks do not answer soon. Harmless when called twice.
  void close();

  int rank() const { return rank_; }
  int world_size() const { return world_size_; }
  int device() const { return device_; }

  // ---- for operations made of several calls (algorithms.hpp) ----
  const Library& library() const { return library_; }
  cudaStream_t comm_stream() const { return comm_stream_; }
  cudaStream_t compute_stream();  // made when first used
  cudaEvent_t event(int index);   // 0 to 2: without timing, the operation's own
  // `bytes` of memory that is used on the comm stream, and on others only between events with it. One at a time.
  void* scratch(std::size_t bytes);
  // One NCCL call, or several that run at once; `body` gets the communicator's handle.
  void call(const char* name, const std::function<Result(Comm)>& body);
  void group(const char* name, const std::function<Result(Comm)>& body);
  // Runs `enqueue` behind what `caller` has enqueued, between the events of a new work.
  WorkPointer submit(std::string description, int peer, Stream caller, const std::function<void()>& enqueue);

 private:
  Communicator(const Library& library, Comm comm, int device, const Options& options);

  void throw_if_failed() const;
  void settle(const char* name);
  Comm usable() const;
  Result ready(Comm comm);
  void say_goodbye(Comm comm);
  void check(const char* name, Result result);
  [[noreturn]] void fail_with(const std::exception_ptr& error);
  void abort_comm();
  bool forget_ended();
  WorkPointer oldest();
  void check_deadline(Work& work, std::int64_t now);
  std::int64_t naming_ns() const;
  void new_epoch();
  int name_of(int rank) const;
  std::string who() const { return "rank " + std::to_string(name_of(rank_)); }
  WorkPointer exchange(const std::string& name, const Operand& operand, const std::vector<std::size_t>& output_counts,
                       const std::vector<std::size_t>& input_counts, Stream caller);
  void with_reduction(const Reduction& reduction, DType dtype, const std::function<void(RedOp)>& body);

  const Library& library_;
  int rank_, world_size_;
  const int device_;
  const Options options_;
  const std::int64_t timeout_ns_;

  std::mutex submit_mutex_;  // one operation is enqueued at a time
  std::mutex comm_mutex_;    // held during every NCCL call on comm_; the watchdog goes ahead where a call hangs
  std::atomic<Comm> comm_{nullptr};
  bool joined_ = false;

  cudaStream_t comm_stream_ = nullptr, compute_stream_ = nullptr, clock_stream_ = nullptr;
  std::vector<cudaEvent_t> events_;
  std::shared_ptr<EventPool> pool_;
  std::shared_ptr<const Epoch> epoch_;
  void* scratch_ = nullptr;
  std::size_t scratch_bytes_ = 0;
  bool scratch_captured_ = false;
  std::vector<void*> retained_;  // former scratch memory of graphs
  int* token_ = nullptr;         // what a barrier adds up
  bool capturing_ = false;

  mutable std::mutex state_mutex_;  // guards the next three
  std::deque<WorkPointer> in_flight_;
  std::exception_ptr error_;
  std::vector<std::int64_t> left_ns_;  // when a rank has left; 0: it has not
  std::atomic<bool> failed_{false};
  // The watchdog's own:
  const Work* watched_ = nullptr;  // the oldest work, seen to have started at:
  std::int64_t watched_since_ns_ = 0, error_since_ns_ = 0;

  class Watchdog;
  std::unique_ptr<Watchdog> watchdog_;
  std::atomic<bool> closed_{false};
};

}  // namespace pyparallel::nccl
