// Atomics under emulation: no update is lost between threads, blocks and streams, and a fence publishes plain writes.
#include "device.hpp"

using namespace pyparallel;

namespace {

constexpr int kBlocks = 6;
constexpr int kAll = kBlocks * kTestThreads;

template <class T>
__global__ void add_all(T* total) {
  atomicAdd(total, static_cast<T>(threadIdx.x % 2 + 1));
}

template <class T>
void sums_are_complete() {
  const auto total = device_zeros<T>(1);
  const TestStream streams[2];
  synchronize();
  for (const TestStream& stream : streams) launch({"add", kBlocks, kTestThreads, stream}, add_all<T>, total.data());
  synchronize();
  CHECK_EQUAL(total.download()[0], static_cast<T>(2 * kAll / 2 * 3));
}

template <class T>
__global__ void extremes(T* low_high) {
  const T value = static_cast<T>(blockIdx.x * blockDim.x + threadIdx.x) - static_cast<T>(5);
  atomicMin(low_high, value);
  atomicMax(low_high + 1, value);
}

template <class T>
void extremes_are_found(T lowest, T highest) {
  const DeviceArray<T> low_high(std::vector<T>{7, 7});
  launch({"extremes", kBlocks, kTestThreads, nullptr}, extremes<T>, low_high.data());
  synchronize();
  CHECK_EQUAL(low_high.download()[0], lowest);
  CHECK_EQUAL(low_high.download()[1], highest);
}

// Every ticket is taken once; the bits of all lanes are collected; the last value swapped in is one of those given.
__global__ void mixed(unsigned* next, int* tickets, unsigned* bits, float* last) {
  unsigned seen = 0, before;
  do {
    before = seen;
    seen = atomicCAS(next, before, before + 1);
  } while (seen != before);
  tickets[before] += 1;
  atomicOr(bits, 1u << threadIdx.x % 32);
  atomicExch(last, static_cast<float>(threadIdx.x) + 0.5f);
}

void exchanges_lose_nothing() {
  const auto next = device_zeros<unsigned>(1), bits = device_zeros<unsigned>(1);
  const auto tickets = device_zeros<int>(kAll);
  const auto last = device_zeros<float>(1);
  launch({"mixed", kBlocks, kTestThreads, nullptr}, mixed, next.data(), tickets.data(), bits.data(), last.data());
  synchronize();
  CHECK_EQUAL(next.download()[0], static_cast<unsigned>(kAll));
  for (int count : tickets.download()) CHECK_EQUAL(count, 1);
  CHECK_EQUAL(bits.download()[0], 0xffffffffu);
  CHECK_EQUAL(std::fmod(last.download()[0], 1.0f), 0.5f);
}

// The last block to finish adds the parts of the others: written plainly, published by a fence and a counter.
__global__ void last_block_sums(int* parts, unsigned* done, int* total) {
  if (threadIdx.x > 0) return;
  parts[blockIdx.x] = static_cast<int>(blockIdx.x) + 1;
  __threadfence();
  if (atomicAdd(done, 1) != gridDim.x - 1) return;
  __threadfence();
  *total = 0;
  for (unsigned block = 0; block < gridDim.x; ++block) *total += parts[block];
}

void a_fence_publishes() {
  const DeviceArray<int> parts(kBlocks), total(1);
  const auto done = device_zeros<unsigned>(1);
  launch({"last block", kBlocks, 32, nullptr}, last_block_sums, parts.data(), done.data(), total.data());
  synchronize();
  CHECK_EQUAL(total.download()[0], kBlocks * (kBlocks + 1) / 2);
}

}  // namespace

int main() {
  std::mt19937_64 random = fresh_random();
  const auto all = [] {
    sums_are_complete<int>();
    sums_are_complete<unsigned>();
    sums_are_complete<unsigned long long>();
    sums_are_complete<float>();
    sums_are_complete<double>();
    extremes_are_found<int>(-5, kAll - 6);
    extremes_are_found<long long>(-5, kAll - 6);
    extremes_are_found<unsigned>(0, 0u - 1);
    exchanges_lose_nothing();
    a_fence_publishes();
  };
  in_every_order(random, all);
  emulation::Config config;
  config.streams = emulation::StreamOrder::kHostThreads;
  emulation::configure(config);
  all();
  emulation::configure({});
}
