// What tests of the emulation share: device arrays of exact size, and the orders in which everything is run.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "check.hpp"
#include "core/cuda_check.hpp"
#include "core/launch.hpp"
#include "emulation/config.hpp"

namespace pyparallel {

inline void synchronize() { check_cuda(cudaDeviceSynchronize(), "cudaDeviceSynchronize"); }

// `count` elements of device memory that end where their heap block ends, preceded by `shift` elements that must stay.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t count, std::size_t shift = 0) : count_(count), shift_(shift) {
    check_cuda(cudaMalloc(&memory_, (shift + count) * sizeof(T)), "cudaMalloc");
  }
  explicit DeviceArray(const std::vector<T>& values, std::size_t shift = 0) : DeviceArray(values.size(), shift) {
    upload(values);
  }
  DeviceArray(DeviceArray&& other) noexcept
      : memory_(std::exchange(other.memory_, nullptr)), count_(other.count_), shift_(other.shift_) {}
  DeviceArray& operator=(DeviceArray&&) = delete;
  ~DeviceArray() { cudaFree(memory_); }

  T* data() const { return count_ == 0 ? nullptr : static_cast<T*>(memory_) + shift_; }
  std::size_t size() const { return count_; }

  void upload(const std::vector<T>& values) {
    check_cuda(cudaMemcpy(data(), values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice), "upload");
  }

  // Waits for nothing but its own copy: the caller has synchronised.
  std::vector<T> download() const {
    std::vector<T> values(count_);
    check_cuda(cudaMemcpy(values.data(), data(), count_ * sizeof(T), cudaMemcpyDeviceToHost), "download");
    return values;
  }

  // What lies before the array is still as cudaMalloc left it.
  bool front_is_untouched() const {
    std::vector<unsigned char> front(shift_ * sizeof(T));
    check_cuda(cudaMemcpy(front.data(), memory_, front.size(), cudaMemcpyDeviceToHost), "download");
    for (unsigned char byte : front)
      if (byte != 0xff) return false;
    return true;
  }

 private:
  void* memory_ = nullptr;
  std::size_t count_, shift_;
};

template <class T>
DeviceArray<T> device_zeros(std::size_t count) {
  return DeviceArray<T>(std::vector<T>(count));
}

class TestStream {
 public:
  explicit TestStream(unsigned flags = cudaStreamNonBlocking) {
    check_cuda(cudaStreamCreateWithFlags(&stream_, flags), "cudaStreamCreate");
  }
  TestStream(TestStream&& other) noexcept : stream_(std::exchange(other.stream_, nullptr)) {}
  TestStream& operator=(TestStream&&) = delete;
  ~TestStream() {
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

// Runs `body` under every order of threads, each with blocks of another size; seeds are drawn from `random`.
template <class Body>
void in_every_order(std::mt19937_64& random, const Body& body) {
  using emulation::ThreadOrder;
  constexpr std::pair<ThreadOrder, int> kOrders[] = {{ThreadOrder::kForward, 256},
                                                     {ThreadOrder::kReverse, 64},
                                                     {ThreadOrder::kUniform, 128},
                                                     {ThreadOrder::kByWarp, 32}};
  for (const auto& [order, threads] : kOrders) {
    emulation::Config config;
    config.threads = order;
    config.seed = random();
    config.max_block_threads = std::min(threads, config.max_block_threads);
    emulation::configure(config);
    body();
  }
  emulation::configure({});
}

// For lists of thousands of tensors: guarding each of them before and after every operation takes its time.
inline void without_guard() {
  emulation::Config config;
  config.guard_device_memory = false;
  emulation::configure(config);
}

// Of a block for tests that need several warps.
inline constexpr int kTestThreads = emulation::kTsan ? 64 : 256;

}  // namespace pyparallel
