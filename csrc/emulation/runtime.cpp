// Streams run in order, each on its own; which one is next is drawn from a seed, or left to host threads.
//
// Without host threads nothing runs until the host waits: what a program forgot to order then happens late.
#include "emulation/runtime.hpp"

#include <algorithm>
#include <chrono>
#include <mutex>

#include "emulation/report.hpp"

namespace pyparallel::emulation {
namespace {

double now_milliseconds() {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// See last_switch() in fiber.cpp.
__attribute__((noinline)) Stream*& running_stream() {
  static constinit thread_local Stream* running = nullptr;
  asm volatile("");
  return running;
}

}  // namespace

constinit thread_local int current_device = 0;
constinit thread_local cudaStreamCaptureMode capture_mode = cudaStreamCaptureModeGlobal;

// ---- one stream ----

void Stream::take() {
  operation = std::move(queue.front());
  queue.pop_front();
  busy = true;
}

void Stream::run() {
  running_stream() = this;
  host.adopt_identity();
  Fiber::switch_between(host, fiber);
}

void Stream::fiber_main() {
  for (;;) {
    Stream& self = *running_stream();
    self.execute();
    Fiber::switch_between(self.fiber, self.host);
  }
}

void Stream::execute() {
  operation.issued->acquire();
  if (operation.wait) operation.wait->order.acquire();
  if (operation.run) operation.run(*this);
  if (operation.mark) operation.mark->order.release();
  operation.run = nullptr;  // what the call had captured is the stream's to free
  finished.release();
}

// ---- the runtime ----

Runtime& Runtime::get() {
  static Runtime& runtime = *new Runtime;  // streams may outlive static objects
  return runtime;
}

Runtime::Runtime() {
  for (int device = 0; device < kDeviceCount; ++device)
    streams.push_back(std::make_unique<Stream>(device, true, true, ++streams_ever_));
}

void configure(const Config& config) { Runtime::get().configure(config); }
const Config& config() { return Runtime::get().config; }
std::int64_t launch_count() { return Runtime::get().launches; }

void Runtime::configure(const Config& wanted) {
  Unseen unseen;
  synchronize_all();
  for (const auto& stream : streams) stop_thread(stream.get());
  config = wanted;
  random_ = Random(wanted.seed);
  if (guards_memory())
    memory.close_to_host();
  else
    memory.open_to_host();
  if (config.streams == StreamOrder::kHostThreads)
    for (const auto& stream : streams) start_thread(stream.get());
}

// ---- streams ----

Stream* Runtime::create_stream(bool blocking) {
  const std::lock_guard<Lock> guard(lock);
  streams.push_back(std::make_unique<Stream>(current_device, false, blocking, ++streams_ever_));
  Stream* const stream = streams.back().get();
  if (config.streams == StreamOrder::kHostThreads) start_thread(stream);
  return stream;
}

void Runtime::destroy_stream(Stream* stream) {
  synchronize(stream);
  stop_thread(stream);
  const std::lock_guard<Lock> guard(lock);
  if (preferred == stream) preferred = nullptr;
  std::erase_if(streams, [&](const auto& other) { return other.get() == stream; });
}

Stream* Runtime::find(cudaStream_t handle) {
  const std::lock_guard<Lock> guard(lock);
  if (handle == nullptr) return streams[static_cast<std::size_t>(current_device)].get();
  for (const auto& stream : streams)
    if (reinterpret_cast<cudaStream_t>(stream.get()) == handle) return stream.get();
  return nullptr;
}

cudaError_t Runtime::enqueue(Stream* stream, Operation operation) {
  operation.issued = std::make_shared<Token>();
  operation.issued->release();
  if (const cudaError_t error = forbid_implicit(stream)) return error;
  const std::lock_guard<Lock> guard(lock);
  if (stream->capture) {
    stream->capture->operations.push_back(std::move(operation));
    return cudaSuccess;
  }
  stream->queue.push_back(std::move(operation));
  changed();
  return cudaSuccess;
}

// ---- what captures forbid ----

cudaError_t Runtime::lose_captures(const std::function<bool(const Stream&)>& conflicts, cudaError_t error) {
  const std::lock_guard<Lock> guard(lock);
  bool lost = false;
  for (const auto& stream : streams) {
    if (!stream->capture || !conflicts(*stream)) continue;
    stream->capture->valid = false;
    lost = true;
  }
  return lost ? error : cudaSuccess;
}

cudaError_t Runtime::forbid_in_capture(Stream* stream) {
  return lose_captures([&](const Stream& other) { return other.capture == stream->capture; },
                       cudaErrorStreamCaptureUnsupported);
}

cudaError_t Runtime::forbid_on_capturing_device() {
  return lose_captures([](const Stream& other) { return other.device == current_device; },
                       cudaErrorStreamCaptureUnsupported);
}

cudaError_t Runtime::forbid_beside_capture() {
  if (capture_mode == cudaStreamCaptureModeRelaxed) return cudaSuccess;
  const auto forbids = [](const Stream& other) {
    const Graph& graph = *other.capture;
    if (graph.thread == std::this_thread::get_id()) return graph.mode != cudaStreamCaptureModeRelaxed;
    return capture_mode == cudaStreamCaptureModeGlobal && graph.mode == cudaStreamCaptureModeGlobal;
  };
  return lose_captures(forbids, cudaErrorStreamCaptureUnsupported);
}

cudaError_t Runtime::forbid_implicit(const Stream* stream) {
  if (!stream->legacy) return cudaSuccess;
  return lose_captures([&](const Stream& other) { return other.blocking && other.device == stream->device; },
                       cudaErrorStreamCaptureImplicit);
}

bool Runtime::implicit_capture(const Stream* stream) const {
  return stream->legacy && std::any_of(streams.begin(), streams.end(), [&](const auto& other) {
           return other->capture && other->blocking && other->device == stream->device;
         });
}

// ---- waiting ----

void Runtime::wait_for(const std::function<bool()>& condition) {
  for (;;) {
    unsigned seen;
    Stream* next = nullptr;
    {
      const std::lock_guard<Lock> guard(lock);
      if (condition()) return;
      seen = changes_;
      if (config.streams != StreamOrder::kHostThreads && (next = choose()) == nullptr)
        fail("streams wait for each other, or for an event that is never recorded");
    }
    if (next != nullptr)
      step(next);
    else
      changes_.wait(seen);
  }
}

void Runtime::synchronize(Stream* stream) {
  wait_for([&] { return stream->idle(); });
  stream->finished.acquire();
}

void Runtime::synchronize_all() {
  wait_for([&] { return std::all_of(streams.begin(), streams.end(), [](const auto& s) { return s->idle(); }); });
  for (const auto& stream : streams) stream->finished.acquire();
  const std::lock_guard<Lock> guard(lock);
  memory.free_retired();
}

void Runtime::poll() {
  if (config.streams == StreamOrder::kHostThreads) return;
  if (Stream* const next = choose()) step(next);
}

void Runtime::changed() {
  ++changes_;
  changes_.notify_all();
}

// ---- running ----

Stream* Runtime::choose() {
  std::vector<Stream*> ready;
  for (const auto& stream : streams)
    if (stream->can_go_on()) ready.push_back(stream.get());
  if (ready.empty()) return nullptr;
  if (config.streams == StreamOrder::kPreferred && std::find(ready.begin(), ready.end(), preferred) != ready.end())
    return preferred;
  return ready[random_.below(static_cast<unsigned>(ready.size()))];
}

void Runtime::step(Stream* stream) {
  memory.open_to_host();
  stream->take();
  stream->run();
  finish(stream);
  if (guards_memory()) memory.close_to_host();
}

// After the operation has run: those that wait for its mark can go on.
void Runtime::finish(Stream* stream) {
  stream->busy = false;
  const std::shared_ptr<Mark> mark = std::move(stream->operation.mark);
  if (!mark) return;
  mark->milliseconds = now_milliseconds();
  mark->reached = true;
}

// ---- a host thread per stream ----

void Runtime::start_thread(Stream* stream) {
  stream->stop = false;
  stream->host_thread = std::thread([this, stream] { thread_main(stream); });
}

void Runtime::stop_thread(Stream* stream) {
  if (!stream->host_thread.joinable()) return;
  {
    const std::lock_guard<Lock> guard(lock);
    stream->stop = true;
    changed();
  }
  stream->host_thread.join();
}

void Runtime::thread_main(Stream* stream) {
  for (;;) {
    unsigned seen;
    {
      Unseen unseen;
      const std::lock_guard<Lock> guard(lock);
      if (stream->stop && stream->queue.empty()) return;
      seen = changes_;
      if (stream->can_go_on()) stream->take();
    }
    if (!stream->busy) {
      changes_.wait(seen);
      continue;
    }
    stream->run();
    Unseen unseen;
    const std::lock_guard<Lock> guard(lock);
    finish(stream);
    changed();
  }
}

}  // namespace pyparallel::emulation
