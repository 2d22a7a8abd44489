// Life of a communicator, and how an operation gets between the caller's stream and the comm stream.
#include "comm/nccl/communicator.hpp"

#include <time.h>

#include <algorithm>
#include <utility>

#include "comm/nccl/watchdog.hpp"
#include "core/clock.hpp"
#include "core/cuda_check.hpp"
#include "core/device_guard.hpp"
#include "core/error.hpp"

namespace pyparallel::nccl {
namespace {

inline constexpr std::int64_t kEpochNs = 10'000'000'000;   // a float counts the milliseconds of 10 s to about 1 us
inline constexpr std::int64_t kGoodbyeNs = 5'000'000'000;  // how long close() waits for the others
inline constexpr int kEvents = 4;                          // three for operations, the last for the caller's stream

void sleep_ns(std::int64_t ns) {
  const timespec duration{ns / 1'000'000'000, ns % 1'000'000'000};
  nanosleep(&duration, nullptr);
}

// Asks `done` ever less often, until it is true or the deadline has passed; returns which.
template <class Done>
bool poll(std::int64_t timeout_ns, const Done& done) {
  const std::int64_t deadline = now_ns() + timeout_ns;
  for (std::int64_t pause = 2'000; !done(); pause = std::min<std::int64_t>(pause * 2, 1'000'000)) {
    if (now_ns() > deadline) return false;
    sleep_ns(pause);
  }
  return true;
}

cudaStream_t create_stream() {
  cudaStream_t stream = nullptr;
  int lowest = 0, highest = 0;
  check_cuda(cudaDeviceGetStreamPriorityRange(&lowest, &highest), "cudaDeviceGetStreamPriorityRange");
  check_cuda(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, highest), "cudaStreamCreateWithPriority");
  return stream;
}

}  // namespace

// ---- life ----

UniqueId Communicator::create_unique_id(const Library& library) {
  UniqueId id;
  const Result result = library.GetUniqueId(&id);
  if (result != Result::kSuccess)
    throw NcclError(static_cast<int>(result), std::string("ncclGetUniqueId: ") + library.GetErrorString(result));
  return id;
}

Communicator::Communicator(const Library& library, const UniqueId& id, int rank, int world_size, int device,
                           const Options& options)
    : Communicator(library, nullptr, device, options) {
  rank_ = rank;
  world_size_ = world_size;
  const DeviceGuard guard(device_);
  Comm comm = nullptr;
  Config config;
  const Result result = library_.CommInitRankConfig != nullptr
                            ? library_.CommInitRankConfig(&comm, world_size, id, rank, &config)
                            : library_.CommInitRank(&comm, world_size, id, rank);
  comm_ = comm;
  if (result != Result::kSuccess && result != Result::kInProgress) check("ncclCommInitRank", result);
}

Communicator::Communicator(const Library& library, Comm comm, int device, const Options& options)
    : library_(library),
      rank_(-1),
      world_size_(0),
      device_(device),
      options_(options),
      timeout_ns_(static_cast<std::int64_t>(options.timeout_seconds * 1e9)),
      comm_(comm),
      pool_(std::make_shared<EventPool>(device)) {}

Communicator::~Communicator() {
  try {
    close();
  } catch (const std::exception&) {  // CUDA has ended before us; a destructor must not throw
  }
}

void Communicator::join() {
  if (joined_) return;
  const DeviceGuard guard(device_);
  settle("init()");
  if (rank_ < 0) {
    call("ncclCommUserRank", [&](Comm comm) { return library_.CommUserRank(comm, &rank_); });
    call("ncclCommCount", [&](Comm comm) { return library_.CommCount(comm, &world_size_); });
  }
  left_ns_.resize(static_cast<std::size_t>(world_size_));
  comm_stream_ = create_stream();
  clock_stream_ = create_stream();
  for (int i = 0; i < kEvents; ++i)
    check_cuda(cudaEventCreateWithFlags(&events_.emplace_back(), cudaEventDisableTiming), "cudaEventCreate");
  check_cuda(cudaMallocAsync(reinterpret_cast<void**>(&token_), sizeof *token_, comm_stream_), "cudaMallocAsync");
  check_cuda(cudaMemsetAsync(token_, 0, sizeof *token_, comm_stream_), "cudaMemsetAsync");
  new_epoch();
  joined_ = true;
  if (options_.watch_period_ns > 0) watchdog_ = std::make_unique<Watchdog>(*this, device_, options_.watch_period_ns);
}

std::unique_ptr<Communicator> Communicator::split(int color, int key) {
  if (library_.CommSplit == nullptr)
    throw NcclError(-1, library_.path + " has no ncclCommSplit, which is new in NCCL 2.18");
  const std::lock_guard<std::mutex> lock(submit_mutex_);
  const DeviceGuard guard(device_);
  Comm part = nullptr;
  call("split()", [&](Comm comm) { return library_.CommSplit(comm, color, key, &part, nullptr); });
  if (part == nullptr) return nullptr;
  Options options = options_;
  options.names.clear();  // the part has its own numbers
  std::unique_ptr<Communicator> communicator(new Communicator(library_, part, device_, options));
  communicator->join();
  return communicator;
}

int Communicator::name_of(int rank) const {
  return options_.names.empty() || rank < 0 ? rank : options_.names.at(static_cast<std::size_t>(rank));
}

void Communicator::finish() {
  const bool ended = poll(timeout_ns_, [&] { return throw_if_failed(), forget_ended(); });
  if (!ended)
    fail_with(std::make_exception_ptr(CollectiveTimeoutError(
        who() + " waited " + std::to_string(timeout_ns_ / 1'000'000) + " ms for the end of " + doing())));
}

void Communicator::close() {
  if (closed_.exchange(true)) return;
  watchdog_.reset();
  const DeviceGuard guard(device_);
  Comm comm;
  {
    const std::lock_guard<std::mutex> lock(comm_mutex_);
    comm = comm_.exchange(nullptr);  // ours alone: no late failure aborts it meanwhile
  }
  if (comm != nullptr) say_goodbye(comm);
  fail(std::make_exception_ptr(InvalidArgument("this communicator is closed")));
  if (comm_stream_ == nullptr) return;
  retained_.push_back(scratch_);
  retained_.push_back(token_);
  for (void* memory : retained_)
    if (memory != nullptr) cudaFreeAsync(memory, comm_stream_);
  for (cudaEvent_t event : events_) cudaEventDestroy(event);
  for (cudaStream_t stream : {comm_stream_, compute_stream_, clock_stream_})
    if (stream != nullptr) cudaStreamDestroy(stream);
}

// What was sent reaches the others before the communicator is freed; those that do not answer are not waited for.
void Communicator::say_goodbye(Comm comm) {
  if (!joined_) {
    library_.CommAbort(comm);
    return;
  }
  if (library_.CommFinalize != nullptr) {
    Result result = library_.CommFinalize(comm);
    const bool quiet = poll(kGoodbyeNs, [&] { return (result = ready(comm)) != Result::kInProgress; });
    if (!quiet || result != Result::kSuccess) {
      library_.CommAbort(comm);
      return;
    }
  }
  library_.CommDestroy(comm);
}

// ---- NCCL calls ----

void Communicator::call(const char* name, const std::function<Result(Comm)>& body) {
  Result result;
  {
    const std::lock_guard<std::mutex> lock(comm_mutex_);
    result = body(usable());
  }
  check(name, result);
}

// Requires comm_mutex_. Throws what has ended it.
Comm Communicator::usable() const {
  throw_if_failed();
  const Comm comm = comm_;
  if (comm == nullptr) throw InvalidArgument("this communicator is closed");
  return comm;
}

void Communicator::group(const char* name, const std::function<Result(Comm)>& body) {
  call(name, [&](Comm comm) {
    const Result started = library_.GroupStart();
    if (started != Result::kSuccess) return started;
    const Result inside = body(comm);
    const Result ended = library_.GroupEnd();  // also after an error: groups nest
    return inside == Result::kSuccess || inside == Result::kInProgress ? ended : inside;
  });
}

void Communicator::check(const char* name, Result result) {
  if (result == Result::kSuccess) return;
  if (result == Result::kInProgress) return settle(name);
  std::string text = who() + " in " + name + ": " + library_.GetErrorString(result);
  if (library_.GetLastError != nullptr)
    if (const char* const last = library_.GetLastError(comm_)) text += std::string(" (") + last + ")";
  fail_with(std::make_exception_ptr(NcclError(static_cast<int>(result), text)));
}

// The state of a communicator: kSuccess when it may be called again.
Result Communicator::ready(Comm comm) {
  Result state = Result::kSuccess;
  const Result result = library_.CommGetAsyncError(comm, &state);
  return result != Result::kSuccess ? result : state;
}

// After a call that is still in progress nothing else may be called, nor an event recorded behind it.
void Communicator::settle(const char* name) {
  Result state = Result::kInProgress;
  const bool settled = poll(timeout_ns_, [&] {
    const std::lock_guard<std::mutex> lock(comm_mutex_);
    state = ready(usable());
    return state != Result::kInProgress;
  });
  if (!settled)
    fail_with(std::make_exception_ptr(CollectiveTimeoutError(
        who() + " waited " + std::to_string(timeout_ns_ / 1'000'000) + " ms for the other ranks in " + name)));
  check(name, state);
}

// ---- operations ----

Communicator::WorkPointer Communicator::submit(std::string description, int peer, Stream caller,
                                               const std::function<void()>& enqueue) {
  const std::lock_guard<std::mutex> lock(submit_mutex_);
  throw_if_failed();
  if (!joined_) throw InvalidArgument("join() comes before the first operation");
  const DeviceGuard guard(device_);
  cudaStreamCaptureStatus capture;
  check_cuda(cudaStreamIsCapturing(caller, &capture), "cudaStreamIsCapturing");
  capturing_ = capture != cudaStreamCaptureStatusNone;
  if (!capturing_) {  // events may not be asked while a stream captures
    forget_ended();
    if (now_ns() - epoch_->ns > kEpochNs) new_epoch();
  }
  const auto work = std::make_shared<Work>(std::move(description), peer, device_);
  work->captured_ = capturing_;
  work->start_ = pool_->take();
  work->end_ = pool_->take();
  work->epoch_ = epoch_;
  check_cuda(cudaEventRecord(events_.back(), caller), "cudaEventRecord");
  check_cuda(cudaStreamWaitEvent(comm_stream_, events_.back(), 0), "cudaStreamWaitEvent");
  if (!capturing_) check_cuda(cudaEventRecord(work->start_.get(), comm_stream_), "cudaEventRecord");
  try {
    enqueue();
  } catch (const InvalidArgument&) {
    throw;  // refused before anything was enqueued
  } catch (const std::exception&) {
    fail_with(std::current_exception());  // halfway: the ranks are out of step
  }
  check_cuda(cudaEventRecord(work->end_.get(), comm_stream_), "cudaEventRecord");
  if (capturing_) return work;
  const std::lock_guard<std::mutex> state(state_mutex_);
  if (error_) std::rethrow_exception(error_);
  in_flight_.push_back(work);
  return work;
}

cudaStream_t Communicator::compute_stream() {
  if (compute_stream_ == nullptr) compute_stream_ = create_stream();
  return compute_stream_;
}

cudaEvent_t Communicator::event(int index) { return events_.at(static_cast<std::size_t>(index)); }

void* Communicator::scratch(std::size_t bytes) {
  if (bytes > scratch_bytes_) {
    if (capturing_)
      throw InvalidArgument(
          "this operation needs " + std::to_string(bytes) +
          " bytes of scratch memory, which cannot be had while a stream captures: run it once before");
    if (scratch_captured_)
      retained_.push_back(scratch_);  // a graph uses it whenever it is launched
    else if (scratch_ != nullptr)
      check_cuda(cudaFreeAsync(scratch_, comm_stream_), "cudaFreeAsync");
    scratch_ = nullptr;
    scratch_bytes_ = 0;
    check_cuda(cudaMallocAsync(&scratch_, bytes, comm_stream_), "cudaMallocAsync");
    scratch_bytes_ = bytes;
    scratch_captured_ = false;
  }
  scratch_captured_ = scratch_captured_ || capturing_;
  return scratch_;
}

// On a stream where nothing else runs, so that the device passes the event as soon as it is recorded.
void Communicator::new_epoch() {
  auto epoch = std::make_shared<Epoch>(Epoch{pool_->take(), now_ns()});
  check_cuda(cudaEventRecord(epoch->event.get(), clock_stream_), "cudaEventRecord");
  epoch_ = std::move(epoch);
}

}  // namespace pyparallel::nccl
