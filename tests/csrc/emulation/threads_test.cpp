// Blocks under emulation: every thread runs once with its own indices, barriers hold in every order, shared memory is
// fresh.
#include <cmath>
#include <set>

#include "device.hpp"

using namespace pyparallel;

namespace {

constexpr dim3 kGrid(3, 2, 2), kBlock(5, 4, 3);
constexpr int kBlocks = 12, kThreads = 60;

__global__ void count_visits(int* visits) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  visits[block * kThreads + thread] += 1;
}

void threads_have_indices_in_three_dimensions() {
  const auto visits = device_zeros<int>(kBlocks * kThreads);
  const cudaLaunchConfig_t config{kGrid, kBlock, 0, nullptr, nullptr, 0};
  int* const pointer = visits.data();
  const auto body = emulation::BoundKernel<int*>(&count_visits, pointer);
  check_cuda(emulation::launch(config, "count", nullptr, body), "count");
  synchronize();
  for (int count : visits.download()) CHECK_EQUAL(count, 1);
}

// Each round every thread reads what its neighbour wrote in the round before.
__global__ void rotate(int* values, int rounds) {
  GPU_DYNAMIC_SHARED(int, slots);
  const int i = static_cast<int>(threadIdx.x), n = static_cast<int>(blockDim.x);
  slots[i] = i;
  for (int round = 0; round < rounds; ++round) {
    __syncthreads();
    const int neighbour = slots[(i + 1) % n];
    __syncthreads();
    slots[i] = neighbour;
  }
  values[blockIdx.x * blockDim.x + threadIdx.x] = slots[i];
}

void barriers_separate_the_phases(int threads) {
  constexpr int kRounds = 5;
  DeviceArray<int> values(static_cast<std::size_t>(2 * threads));
  launch({"rotate", 2, threads, nullptr, static_cast<std::size_t>(threads) * sizeof(int)}, rotate, values.data(),
         kRounds);
  synchronize();
  const std::vector<int> result = values.download();
  for (int i = 0; i < 2 * threads; ++i)
    CHECK_EQUAL(result[static_cast<std::size_t>(i)], (i % threads + kRounds) % threads);
}

__global__ void vote(int* counts, int* flags) {
  const int i = static_cast<int>(threadIdx.x);
  const int count = __syncthreads_count(i % 3 == 0);
  const int none = __syncthreads_or(i > 5000);
  const int one = __syncthreads_or(i == 7);
  const int all = __syncthreads_and(i >= 0);
  const int most = __syncthreads_and(i != 7);
  counts[i] = count;
  flags[i] = none + 2 * one + 4 * all + 8 * most;
}

void barriers_count_votes() {
  DeviceArray<int> counts(kTestThreads), flags(kTestThreads);
  launch({"vote", 1, kTestThreads, nullptr}, vote, counts.data(), flags.data());
  synchronize();
  for (int count : counts.download()) CHECK_EQUAL(count, (kTestThreads + 2) / 3);
  for (int flag : flags.download()) CHECK_EQUAL(flag, 6);
}

// Threads that have ended are not waited for.
__global__ void leave_early(int* reached) {
  if (threadIdx.x % 2 == 1) return;
  __syncthreads();
  reached[threadIdx.x] = 1;
}

void barriers_do_not_wait_for_ended_threads() {
  const auto reached = device_zeros<int>(kTestThreads);
  launch({"leave early", 1, kTestThreads, nullptr}, leave_early, reached.data());
  synchronize();
  const std::vector<int> result = reached.download();
  for (int i = 0; i < kTestThreads; ++i) CHECK_EQUAL(result[static_cast<std::size_t>(i)], 1 - i % 2);
}

template <class T>
__global__ void read_unwritten(T* values) {
  GPU_SHARED(T, fixed, 4);
  GPU_DYNAMIC_SHARED(T, flexible);
  values[2 * blockIdx.x] = fixed[3];
  values[2 * blockIdx.x + 1] = flexible[1];
  fixed[3] = flexible[1] = T(1);  // the next block must not see it
}

void unwritten_memory_is_not_a_number() {
  DeviceArray<float> values(8), fresh(8);
  launch({"unwritten", 4, 1, nullptr, 2 * sizeof(float)}, read_unwritten<float>, values.data());
  synchronize();
  for (float value : values.download()) CHECK_EQUAL(std::isnan(value), true);
  for (float value : fresh.download()) CHECK_EQUAL(std::isnan(value), true);
}

__global__ void note_order(int* order, unsigned long long* next) {
  order[atomicAdd(next, 1)] = static_cast<int>(threadIdx.x);
}

std::vector<int> order_of(emulation::ThreadOrder order, std::uint64_t seed) {
  emulation::Config config;
  config.threads = order;
  config.seed = seed;
  emulation::configure(config);
  DeviceArray<int> noted(64);
  const auto next = device_zeros<unsigned long long>(1);
  launch({"note", 1, 64, nullptr}, note_order, noted.data(), next.data());
  synchronize();
  return noted.download();
}

void orders_are_what_they_are_called() {
  using emulation::ThreadOrder;
  std::vector<int> forward = order_of(ThreadOrder::kForward, 1), reverse = order_of(ThreadOrder::kReverse, 1);
  for (int i = 0; i < 64; ++i) {
    CHECK_EQUAL(forward[static_cast<std::size_t>(i)], i);
    CHECK_EQUAL(reverse[static_cast<std::size_t>(i)], 63 - i);
  }
  std::set<std::vector<int>> uniform, by_warp;
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    uniform.insert(order_of(ThreadOrder::kUniform, seed));
    by_warp.insert(order_of(ThreadOrder::kByWarp, seed));
  }
  CHECK_EQUAL(uniform.size(), std::size_t{8});
  CHECK_EQUAL(by_warp.size(), std::size_t{8});
  for (const std::vector<int>& order : by_warp)
    for (std::size_t i = 0; i < 64; ++i) CHECK_EQUAL(order[i] / 32, order[i / 32 * 32] / 32);
}

}  // namespace

int main() {
  std::mt19937_64 random = fresh_random();
  in_every_order(random, [] {
    threads_have_indices_in_three_dimensions();
    for (int threads : {1, 32, 33, kTestThreads}) barriers_separate_the_phases(threads);
    if (!emulation::kTsan) barriers_separate_the_phases(1024);
    barriers_count_votes();
    barriers_do_not_wait_for_ended_threads();
    unwritten_memory_is_not_a_number();
  });
  orders_are_what_they_are_called();
}
