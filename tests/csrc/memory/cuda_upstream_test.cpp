// The pool over the emulated device: kernels write and check patterns on several streams, which run late and in any
// order, so that memory handed on too early is seen as wrong bytes (and as a data race by ThreadSanitizer).
#include "memory/cuda_upstream.hpp"

#include <map>
#include <memory>

#include "core/error.hpp"
#include "emulation/device.hpp"
#include "memory/cuda_vmm_upstream.hpp"
#include "memory/foreign_captures.hpp"
#include "memory/pinned_upstream.hpp"
#include "memory/pool.hpp"

using namespace pyparallel;
using namespace pyparallel::memory;
using emulation::StreamOrder;

namespace {

constexpr std::size_t kStride = 32 << 10;  // elements between those that are written

__global__ void write_pattern(std::uint32_t* data, std::size_t count, std::uint32_t pattern) {
  for (std::size_t i = 0; i < count; i += kStride) data[i] = pattern;
  data[count - 1] = pattern;
}

__global__ void check_pattern(const std::uint32_t* data, std::size_t count, std::uint32_t pattern, int* errors) {
  for (std::size_t i = 0; i < count; i += kStride) *errors += data[i] != pattern;
  *errors += data[count - 1] != pattern;
}

struct Held {
  std::uint32_t* data;
  std::size_t count;
  std::uint32_t pattern;
  std::size_t stream;               // index
  std::vector<std::size_t> others;  // streams that read it
};

class Device {
 public:
  static constexpr std::size_t kStreams = 4;

  Device() {
    for (std::size_t s = 0; s < kStreams; ++s) errors_.push_back(device_zeros<int>(1));
    check_cuda(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "cudaEventCreate");
    synchronize();
  }
  ~Device() { cudaEventDestroy(event_); }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  // The last is the legacy default stream.
  cudaStream_t stream(std::size_t s) const { return s + 1 == kStreams ? nullptr : static_cast<cudaStream_t>(own_[s]); }
  Stream handle(std::size_t s) const { return reinterpret_cast<Stream>(stream(s)); }

  void write(const Held& held) {
    launch({"write", 1, 1, stream(held.stream)}, write_pattern, held.data, held.count, held.pattern);
  }
  void check(const Held& held, std::size_t s) {
    launch({"check", 1, 1, stream(s)}, check_pattern, held.data, held.count, held.pattern, errors_[s].data());
  }
  // Work of `later` comes after what `earlier` has now.
  void order(std::size_t earlier, std::size_t later) {
    check_cuda(cudaEventRecord(event_, stream(earlier)), "cudaEventRecord");
    check_cuda(cudaStreamWaitEvent(stream(later), event_, 0), "cudaStreamWaitEvent");
  }
  int errors() {
    synchronize();
    int sum = 0;
    for (const auto& error : errors_) sum += error.download()[0];
    return sum;
  }

 private:
  TestStream own_[kStreams - 1];
  std::vector<DeviceArray<int>> errors_;
  cudaEvent_t event_;
};

void configure(std::mt19937_64& random, StreamOrder order, std::size_t megabytes) {
  emulation::Config config;
  config.streams = order;
  config.seed = random();
  config.device_bytes = megabytes * kMegabyte;
  config.guard_device_memory = false;  // thousands of small steps
  emulation::configure(config);
}

// Returns how many wrong words the kernels saw. `period`: of steps, after which all begins again, alike, to be planned.
int run_history(std::mt19937_64& random, std::unique_ptr<Upstream> upstream, std::uint64_t limit, int steps,
                int period = 0) {
  Device device;
  int errors = 0;
  {
    Pool pool(std::move(upstream), limit);
    std::vector<Held> live;
    const auto free_all = [&] {
      for (const Held& held : std::exchange(live, {})) device.check(held, held.stream), pool.free(held.data);
    };
    PlannedPlacement* const plan = period > 0 ? &pool.plan_steps(3) : nullptr;
    const std::mt19937_64 start = random;
    for (int i = 0; i < steps; ++i) {
      if (plan && i % period == 0) {
        free_all(), random = start;
        if (i > 0) plan->end_step();
        plan->begin_step();
      }
      const std::size_t s = random() % Device::kStreams;
      const auto choice = random() % 100;
      if (choice < 45) {
        const std::size_t count = 1 + random() % ((std::size_t{1} << (random() % 21)) / 4 + 1);
        try {
          auto* const data = static_cast<std::uint32_t*>(pool.allocate(count * 4, device.handle(s)));
          live.push_back({data, count, static_cast<std::uint32_t>(random()), s, {}});
          device.write(live.back());
        } catch (const OutOfMemoryError&) {
          if (live.empty()) throw;
        }
      } else if (choice < 60 && !live.empty()) {
        Held& held = live[random() % live.size()];
        device.order(held.stream, s);
        pool.use(held.data, device.handle(s));
        device.check(held, s);
        held.others.push_back(s);
      } else if (choice < 95 && !live.empty()) {
        std::swap(live[random() % live.size()], live.back());
        device.check(live.back(), live.back().stream);
        pool.free(live.back().data);
        live.pop_back();
      } else if (choice == 99) {
        pool.trim();
      } else {
        cudaStreamQuery(device.stream(s));  // something runs
      }
    }
    free_all();
    if (plan) CHECK_EQUAL(plan->statistics().planned_requests > 0, true);
    errors = device.errors();
    const std::uint64_t reserved = pool.reserved();
    CHECK_EQUAL(pool.trim(), reserved);
    CHECK_EQUAL(pool.reserved(), std::uint64_t{0});
    const Statistics s = pool.statistics();
    CHECK_EQUAL(s.live, std::uint64_t{0});
    CHECK_EQUAL(s.pending, std::uint64_t{0});
  }
  CHECK_EQUAL(cudaGetLastError(), cudaSuccess);
  return errors;
}

void nothing_is_reused_too_early(std::mt19937_64& random) {
  for (const StreamOrder order : {StreamOrder::kRandom, StreamOrder::kHostThreads}) {
    configure(random, order, 16);
    const std::uint64_t limits[] = {Pool::kUnlimited, 8 * kMegabyte};
    for (const std::uint64_t limit : limits) {
      CHECK_EQUAL(run_history(random, std::make_unique<CudaUpstream>(0), limit, 400), 0);
      CHECK_EQUAL(run_history(random, std::make_unique<CudaVmmUpstream>(0), limit, 400), 0);
      CHECK_EQUAL(run_history(random, std::make_unique<CudaUpstream>(0), 12 * kMegabyte, 400, 50), 0);
      CHECK_EQUAL(run_history(random, std::make_unique<PinnedUpstream>(0), 12 * kMegabyte, 400), 0);
    }
  }
  emulation::configure({});
}

// What the test above would see of a pool that does not wait.
class HastyUpstream : public CudaUpstream {
 public:
  using CudaUpstream::CudaUpstream;
  bool passed(Event) override { return true; }
};

void haste_is_seen(std::mt19937_64& random) {
  if (emulation::kTsan) return;  // it would report the race, rightly
  configure(random, StreamOrder::kRandom, 64);
  int errors = 0;
  for (int i = 0; i < 50 && errors == 0; ++i)
    errors = run_history(random, std::make_unique<HastyUpstream>(0), 8 * kMegabyte, 400);
  CHECK_EQUAL(errors > 0, true);
  emulation::configure({});
}

// ---- pages ----

std::size_t available() {
  std::size_t free = 0, total = 0;
  check_cuda(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return free;
}

void pages_inside_go_back_and_come_again() {
  emulation::Config config;
  config.device_bytes = 16 * kMegabyte;
  emulation::configure(config);
  {
    Pool pool(std::make_unique<CudaVmmUpstream>(0));
    char* blocks[4];
    for (char*& block : blocks) block = static_cast<char*>(pool.allocate(4 * kMegabyte));
    CHECK_EQUAL(available(), std::size_t{0});
    CHECK_THROWS(pool.allocate(1), OutOfMemoryError);
    pool.free(blocks[0]), pool.free(blocks[2]);  // 4 and 4, with a block between
    auto* const large = static_cast<char*>(pool.allocate(8 * kMegabyte));
    CHECK_EQUAL(large == blocks[3] + 4 * kMegabyte, true);  // their pages, at new addresses
    CHECK_EQUAL(pool.reserved(), std::uint64_t{16 * kMegabyte});
    CHECK_THROWS(pool.allocate(1), OutOfMemoryError);
    pool.free(large);
    CHECK_EQUAL(pool.trim(), std::uint64_t{8 * kMegabyte});
    CHECK_EQUAL(available(), 8 * kMegabyte);
    CHECK_EQUAL(static_cast<char*>(pool.allocate(3 * kMegabyte)) == blocks[0], true);  // a hole is filled first
    CHECK_EQUAL(pool.reserved(), std::uint64_t{12 * kMegabyte});
    CHECK_EQUAL(pool.statistics().largest_hole, std::uint64_t{kMegabyte});
  }
  CHECK_EQUAL(available(), 16 * kMegabyte);
  emulation::configure({});
}

// ---- streams ----

void a_handle_that_is_used_again_is_another_stream() {
  emulation::Config config;
  config.guard_device_memory = false;
  emulation::configure(config);
  Pool pool(std::make_unique<CudaUpstream>(0));
  const TestStream other;
  auto gone = std::make_unique<TestStream>();
  const auto handle = reinterpret_cast<Stream>(static_cast<cudaStream_t>(*gone));
  void* const of_cache = pool.allocate(4096, handle);
  void* const large = pool.allocate(kMegabyte + 512, handle);
  pool.use(large, reinterpret_cast<Stream>(static_cast<cudaStream_t>(other)));
  pool.free(of_cache), pool.free(large);
  gone.reset();
  std::vector<TestStream> others(3);  // one of them may get the handle of the one that is gone
  for (const TestStream& stream : others) {
    const auto id = reinterpret_cast<Stream>(static_cast<cudaStream_t>(stream));
    void* const data = pool.allocate(4096, id);
    CHECK_EQUAL(data != of_cache, true);
    pool.free(data);
  }
  pool.trim();
  CHECK_EQUAL(pool.reserved(), std::uint64_t{0});
  CHECK_EQUAL(pool.statistics().pending, std::uint64_t{0});
  emulation::configure({});
}

void a_stream_that_says_it_ends_leaves_its_blocks() {
  Pool pool(std::make_unique<CudaUpstream>(0), 4 * kMegabyte);
  const TestStream other;
  auto ending = std::make_unique<TestStream>();
  const auto handle = reinterpret_cast<Stream>(static_cast<cudaStream_t>(*ending));
  void* const data = pool.allocate(3 * kMegabyte, handle);
  pool.free(data);
  pool.end_stream(handle);
  ending.reset();
  CHECK_EQUAL(pool.allocate(3 * kMegabyte, reinterpret_cast<Stream>(static_cast<cudaStream_t>(other))) == data, true);
  CHECK_EQUAL(pool.statistics().cross_stream_reuses, std::uint64_t{1});
}

// ---- captures ----

cudaStreamCaptureStatus status_of(cudaStream_t stream) {
  cudaStreamCaptureStatus status;
  check_cuda(cudaStreamIsCapturing(stream, &status), "cudaStreamIsCapturing");
  return status;
}

template <class Memory>
void a_step_is_captured(Keep keep) {
  emulation::Config config;
  config.guard_device_memory = false;
  config.device_bytes = 64 * kMegabyte;
  emulation::configure(config);
  const TestStream origin, side, outside;
  const auto errors = device_zeros<int>(1);
  synchronize();
  cudaEvent_t event;
  check_cuda(cudaEventCreate(&event), "cudaEventCreate");
  const auto order = [&](cudaStream_t earlier, cudaStream_t later) {
    check_cuda(cudaEventRecord(event, earlier), "cudaEventRecord");
    check_cuda(cudaStreamWaitEvent(later, event, 0), "cudaStreamWaitEvent");
  };
  Pool pool(std::make_unique<Memory>(0), 32 * kMegabyte, keep);
  // Steps are served from their plan, the last of them around the capture.
  PlannedPlacement& plan = pool.plan_steps(3);
  const auto request = [&] { pool.free(pool.allocate(kMegabyte, handle(origin))); };
  for (int i = 0; i < 4; ++i) plan.begin_step(), request(), request(), plan.end_step();
  plan.begin_step(), request();
  CHECK_EQUAL(plan.statistics().planned_requests, std::uint64_t{5});
  // Blocks of before: one is still in use on a stream that does not take part, when the capture begins.
  void* const before = pool.allocate(2 * kMegabyte, handle(origin));
  launch({"write", 1, 1, outside}, write_pattern, static_cast<std::uint32_t*>(before), kStride, 1u);
  pool.use(before, handle(outside));
  check_cuda(cudaStreamBeginCapture(origin, cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
  pool.free(before);
  order(origin, side);
  std::uint64_t used = 0;
  for (std::uint32_t i = 0; i < 6; ++i) {
    const std::size_t count = (i + 1) * 200'000;
    auto* const data = static_cast<std::uint32_t*>(pool.allocate(count * 4, handle(origin)));
    launch({"write", 1, 1, origin}, write_pattern, data, count, i);
    launch({"check", 1, 1, origin}, check_pattern, static_cast<const std::uint32_t*>(data), count, i, errors.data());
    if (i % 2 == 0) {
      order(origin, side);
      pool.use(data, handle(side));
      launch({"check", 1, 1, side}, check_pattern, static_cast<const std::uint32_t*>(data), count, i, errors.data());
      order(side, origin);
      used += (count * 4 + 511) / 512 * 512;
    }
    pool.free(data);
    CHECK_EQUAL(status_of(origin), cudaStreamCaptureStatusActive);
  }
  CHECK_EQUAL(pool.statistics().pending >= used, true);  // no event went into the graph
  CHECK_EQUAL(pool.trim(), std::uint64_t{0});
  CHECK_THROWS(pool.allocate(31 * kMegabyte, handle(origin)), OutOfMemoryError);
  CHECK_EQUAL(status_of(origin), cudaStreamCaptureStatusActive);
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  check_cuda(cudaStreamEndCapture(origin, &graph), "cudaStreamEndCapture");
  check_cuda(cudaGraphInstantiate(&exec, graph, 0), "cudaGraphInstantiate");
  CHECK_EQUAL(plan.statistics().planned_requests, std::uint64_t{5});
  plan.end_step();
  const std::uint64_t reserved = pool.reserved();
  CHECK_EQUAL(pool.trim(), keep == Keep::kAlways ? std::uint64_t{0} : reserved);
  CHECK_EQUAL(pool.statistics().pending, std::uint64_t{0});
  for (int i = 0; i < 3 && keep == Keep::kAlways; ++i) check_cuda(cudaGraphLaunch(exec, origin), "cudaGraphLaunch");
  synchronize();
  CHECK_EQUAL(errors.download()[0], 0);
  check_cuda(cudaGraphExecDestroy(exec), "cudaGraphExecDestroy");
  check_cuda(cudaGraphDestroy(graph), "cudaGraphDestroy");
  cudaEventDestroy(event);
  emulation::configure({});
}

}  // namespace

int main() {
  std::mt19937_64 random = fresh_random();
  nothing_is_reused_too_early(random);
  haste_is_seen(random);
  pages_inside_go_back_and_come_again();
  a_handle_that_is_used_again_is_another_stream();
  a_stream_that_says_it_ends_leaves_its_blocks();
  beside_foreign_captures();
  for (const Keep keep : {Keep::kAlways, Keep::kUntilShort}) {
    a_step_is_captured<CudaUpstream>(keep);
    a_step_is_captured<CudaVmmUpstream>(keep);
    a_step_is_captured<PinnedUpstream>(keep);
  }
}
