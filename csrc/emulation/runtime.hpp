// The emulated CUDA runtime behind the API: streams as queues, events, and who runs when.
#pragma once
#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "emulation/block.hpp"
#include "emulation/config.hpp"
#include "emulation/memory.hpp"

namespace pyparallel::emulation {

// A mutex that ThreadSanitizer does not see, because the order it makes is not the program's.
class Lock {
 public:
  void lock() {
    while (held_.exchange(1) != 0) held_.wait(1);
  }
  void unlock() {
    held_.store(0);
    held_.notify_one();
  }

 private:
  std::atomic<int> held_{0};
};

// One cudaEventRecord: reached by the stream or not yet.
struct Mark {
  bool reached = false;
  double milliseconds = 0;  // when
  Token order;
};

struct Stream;
struct Graph;

struct Operation {
  std::function<void(Stream&)> run;  // may be empty
  std::shared_ptr<Mark> wait, mark;  // before and after it
  std::shared_ptr<Token> issued;     // by the host
};

struct Event {
  std::shared_ptr<Mark> last;       // null: never recorded
  std::shared_ptr<Graph> captured;  // the graph whose capture recorded it last
};

struct Graph {
  Stream* origin;
  cudaStreamCaptureMode mode;
  std::thread::id thread;  // that began the capture
  bool valid = true;
  std::vector<Operation> operations;  // in the order of capture, which one stream may repeat
};

struct Stream {
  Stream(int device_, bool legacy_, bool blocking_, std::uint64_t id_)
      : device(device_), legacy(legacy_), blocking(blocking_), id(id_) {}

  const int device;
  const bool legacy;       // the null stream of its device
  const bool blocking;     // the null stream may not be used while it captures
  const std::uint64_t id;  // never used again
  // Where its operations run. Made with the stream: made later, it would know what the host has waited for since.
  Fiber fiber{&fiber_main};
  Fiber host;  // who runs it at the moment
  std::deque<Operation> queue;
  Operation operation;  // that runs
  bool busy = false;
  bool stop = false;  // ends the host thread when the queue is empty
  std::thread host_thread;
  std::shared_ptr<Graph> capture;  // operations go there instead of the queue
  Token finished;                  // everything that has run
  BlockRunner runner;

  bool idle() const { return queue.empty() && !busy; }
  bool can_go_on() const { return !queue.empty() && !busy && (!queue.front().wait || queue.front().wait->reached); }

  // Takes the first operation from the queue; it is the one that runs now.
  void take();
  // Runs it on the stream's fiber.
  void run();

 private:
  static void fiber_main();
  void execute();
};

class Runtime {
 public:
  static Runtime& get();

  void configure(const Config& config);

  // ---- streams ----
  Stream* create_stream(bool blocking);
  void destroy_stream(Stream* stream);
  // Null for a handle that is none; the null stream of the current device for a null handle.
  Stream* find(cudaStream_t handle);

  // Appends to the queue, or to the graph that is being captured. Returns the error of a call that may not be captured.
  cudaError_t enqueue(Stream* stream, Operation operation);

  // ---- waiting; these run streams where no host thread does ----
  void wait_for(const std::function<bool()>& condition);
  void synchronize(Stream* stream);
  void synchronize_all();
  void poll();  // lets one operation run, so that a loop of queries ends

  // Device memory is out of the host's reach except while a stream runs.
  bool guards_memory() const { return config.guard_device_memory && config.streams != StreamOrder::kHostThreads; }

  // Each loses the captures that it conflicts with, and says so. Of calls on a stream that captures:
  cudaError_t forbid_in_capture(Stream* stream);
  // Of calls that wait for all of the current device, in whatever mode its streams capture:
  cudaError_t forbid_on_capturing_device();
  // Of calls that are unsafe in the modes of this thread and of the captures (cudaThreadExchangeStreamCaptureMode):
  cudaError_t forbid_beside_capture();
  // Of uses of a null stream, while a stream captures for which it would wait:
  cudaError_t forbid_implicit(const Stream* stream);
  // Whether there is such a stream.
  bool implicit_capture(const Stream* stream) const;

  Lock lock;                                     // of all that follows and of every stream
  std::vector<std::unique_ptr<Stream>> streams;  // the null streams first
  std::map<Event*, std::unique_ptr<Event>> events;
  Memory memory;
  std::map<const void*, std::size_t> host_memory;  // pinned
  Stream* preferred = nullptr;
  Config config;
  std::atomic<std::int64_t> launches{0};

 private:
  Runtime();
  cudaError_t lose_captures(const std::function<bool(const Stream&)>& conflicts, cudaError_t error);
  void start_thread(Stream* stream);
  void stop_thread(Stream* stream);
  void thread_main(Stream* stream);
  void step(Stream* stream);
  Stream* choose();
  void finish(Stream* stream);
  void changed();

  std::uint64_t streams_ever_ = 0;
  std::atomic<unsigned> changes_{0};  // what threads wait on
  Random random_{1};
};

extern constinit thread_local int current_device;
extern constinit thread_local cudaStreamCaptureMode capture_mode;  // of this thread

// Notes the error for cudaGetLastError and returns it.
cudaError_t note(cudaError_t error);

}  // namespace pyparallel::emulation
