// Pools of the emulated device beside captures, and current devices, that they know nothing of: neither hinders the
// other.
#pragma once
#include "emulation/device.hpp"
#include "memory/cuda_upstream.hpp"
#include "memory/cuda_vmm_upstream.hpp"
#include "memory/pinned_upstream.hpp"
#include "memory/pool.hpp"

namespace pyparallel::memory {

inline constexpr std::size_t kMegabyte = 1 << 20;

inline Stream handle(const TestStream& stream) { return reinterpret_cast<Stream>(static_cast<cudaStream_t>(stream)); }

// Somebody captures on a stream of his own, that no pool ever sees.
class ForeignCapture {
 public:
  explicit ForeignCapture(cudaStreamCaptureMode mode, unsigned flags = cudaStreamNonBlocking) : stream_(flags) {
    check_cuda(cudaStreamBeginCapture(stream_, mode), "cudaStreamBeginCapture");
  }
  ~ForeignCapture() { end(); }
  // Whether it came to a graph.
  bool end() {
    cudaGraph_t graph = nullptr;
    const bool good = cudaStreamEndCapture(stream_, &graph) == cudaSuccess;
    if (good) check_cuda(cudaGraphDestroy(graph), "cudaGraphDestroy");
    cudaGetLastError();
    return good;
  }

 private:
  TestStream stream_;
};

inline void configure_small() {
  emulation::Config config;
  config.guard_device_memory = false;
  config.device_bytes = 16 * kMegabyte;
  emulation::configure(config);
}

// Its last word is enough: memory that is gone faults.
inline __global__ void touch(char* data, std::size_t num_bytes) { data[num_bytes - 1] = 1; }

// Work of two streams on a block that is then free, and nothing of it has run.
inline void leave_work(Pool& pool, const TestStream& own, const TestStream& other, std::size_t num_bytes) {
  auto* const data = static_cast<char*>(pool.allocate(num_bytes, handle(own)));
  cudaEvent_t event;
  check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
  launch({"touch", 1, 1, own}, touch, data, num_bytes);
  check_cuda(cudaEventRecord(event, own), "cudaEventRecord");
  check_cuda(cudaStreamWaitEvent(other, event, 0), "cudaStreamWaitEvent");
  launch({"touch", 1, 1, other}, touch, data, num_bytes);
  check_cuda(cudaEventDestroy(event), "cudaEventDestroy");
  pool.use(data, handle(other));
  pool.free(data);
}

// Trims, and makes room for a block by giving others back, beside a foreign capture. Returns whether that was lost.
template <class Memory>
bool loses_a_foreign_capture(cudaStreamCaptureMode mode) {
  configure_small();
  const TestStream own, other;
  ForeignCapture capture(mode);
  const std::uint64_t limit = 12 * kMegabyte;  // of host memory, too
  Pool pool(std::make_unique<Memory>(0), limit);
  std::uint64_t reserved = 0, trimmed = 0;
  bool failed = false;
  try {
    leave_work(pool, own, other, 4 * kMegabyte);
    leave_work(pool, own, other, 8 * kMegabyte);
    reserved = pool.reserved();
    trimmed = pool.trim();
    for (const std::size_t megabytes : {4, 4, 4, 12}) leave_work(pool, own, other, megabytes * kMegabyte);
  } catch (const OutOfMemoryError&) {
    failed = true;
  }
  const bool lost = !capture.end();
  CHECK_EQUAL(failed && !lost, false);
  if (!lost) CHECK_EQUAL(trimmed, reserved);
  synchronize();
  return lost;
}

template <class Memory>
void foreign_captures_are_left_alone() {
  for (const cudaStreamCaptureMode mode :
       {cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal, cudaStreamCaptureModeRelaxed})
    CHECK_EQUAL(loses_a_foreign_capture<Memory>(mode), false);
  emulation::configure({});
}

// What the test above would see of a pool that waits for the whole device, and of one that frees as if nobody captured.
template <class Memory>
class WaitsForTheDevice : public Memory {
 public:
  using Memory::Memory;
  bool await(Event) override { return this->synchronize(); }
};
class FreesPlainly : public CudaUpstream {
 public:
  using CudaUpstream::CudaUpstream;
  void release(char* data, std::uint64_t num_bytes) noexcept override {
    if (cudaFree(data) != cudaSuccess) CudaUpstream::release(data, num_bytes);
  }
};

inline void carelessness_is_seen() {
  CHECK_EQUAL(loses_a_foreign_capture<WaitsForTheDevice<CudaUpstream>>(cudaStreamCaptureModeRelaxed), true);
  CHECK_EQUAL(loses_a_foreign_capture<WaitsForTheDevice<CudaVmmUpstream>>(cudaStreamCaptureModeGlobal), true);
  CHECK_EQUAL(loses_a_foreign_capture<FreesPlainly>(cudaStreamCaptureModeGlobal), true);
  emulation::configure({});
}

// Only the device could be waited for: the null stream tells of a capture that it would wait for, and not of another.
inline void a_stream_that_vanished_needs_the_device() {
  configure_small();
  for (const unsigned flags : {cudaStreamDefault, cudaStreamNonBlocking}) {
    Pool pool(std::make_unique<CudaVmmUpstream>(0));
    pool.free(pool.allocate(5 * kMegabyte, handle(TestStream())));
    const std::uint64_t reserved = pool.reserved();
    ForeignCapture capture(cudaStreamCaptureModeGlobal, flags);
    CHECK_EQUAL(pool.trim(), std::uint64_t{0});
    CHECK_EQUAL(capture.end(), flags == cudaStreamDefault);
    CHECK_EQUAL(pool.trim(), reserved);
  }
  emulation::configure({});
}

// The legacy stream takes no event then, so its blocks stay.
inline void the_null_stream_waits_for_a_blocking_capture() {
  configure_small();
  Pool pool(std::make_unique<CudaUpstream>(0));
  const TestStream other;
  pool.free(pool.allocate(10 * kMegabyte, 0));
  ForeignCapture capture(cudaStreamCaptureModeGlobal, cudaStreamDefault);
  CHECK_EQUAL(pool.trim(), std::uint64_t{0});
  CHECK_THROWS(pool.allocate(10 * kMegabyte, handle(other)), OutOfMemoryError);
  CHECK_EQUAL(capture.end(), true);
  pool.allocate(10 * kMegabyte, handle(other));
  emulation::configure({});
}

// Streams are those of the pool's device, and it is that device's work that is waited for, whichever is current.
template <class Memory>
void another_device_is_current() {
  configure_small();
  check_cuda(cudaSetDevice(1), "cudaSetDevice");
  const TestStream other;
  check_cuda(cudaSetDevice(0), "cudaSetDevice");
  ForeignCapture capture(cudaStreamCaptureModeGlobal, cudaStreamDefault);  // of device 0: it hinders nobody
  Pool pool(std::make_unique<Memory>(1));
  auto* const data = static_cast<char*>(pool.allocate(5 * kMegabyte, 0));  // in the order of device 1's null stream
  check_cuda(cudaSetDevice(1), "cudaSetDevice");
  launch({"touch", 1, 1, nullptr}, touch, data, 5 * kMegabyte);
  check_cuda(cudaSetDevice(0), "cudaSetDevice");
  pool.free(data);
  const std::uint64_t reserved = pool.reserved();
  CHECK_EQUAL(pool.trim(), reserved);
  CHECK_EQUAL(capture.end(), true);
  check_cuda(cudaSetDevice(1), "cudaSetDevice");
  leave_work(pool, other, other, 5 * kMegabyte);
  check_cuda(cudaSetDevice(0), "cudaSetDevice");
  pool.free(pool.allocate(12 * kMegabyte, 0));
  int current = -1;
  check_cuda(cudaGetDevice(&current), "cudaGetDevice");
  CHECK_EQUAL(current, 0);
}

inline void beside_foreign_captures() {
  foreign_captures_are_left_alone<CudaUpstream>();
  foreign_captures_are_left_alone<CudaVmmUpstream>();
  foreign_captures_are_left_alone<PinnedUpstream>();
  carelessness_is_seen();
  a_stream_that_vanished_needs_the_device();
  the_null_stream_waits_for_a_blocking_capture();
  another_device_is_current<CudaUpstream>();
  another_device_is_current<CudaVmmUpstream>();
  another_device_is_current<PinnedUpstream>();
  emulation::configure({});
}

}  // namespace pyparallel::memory
