// Warp operations under emulation against what the CUDA manual says of them, for 4- and 8-byte types and all widths.
#include <bit>
#include <limits>

#include "device.hpp"

using namespace pyparallel;

namespace {

constexpr unsigned kAll = 0xffffffffu;

template <class T>
T value_of(int thread) {
  return static_cast<T>(thread) * static_cast<T>(3) + std::numeric_limits<T>::max() / static_cast<T>(1000);
}

enum Kind { kIndexed, kUp, kDown, kXor, kKinds };

template <class T>
__global__ void shuffle_all(T* results, int distance, int width) {
  const int i = static_cast<int>(threadIdx.x);
  T* const mine = results + i * kKinds;
  const T value = value_of<T>(i);
  mine[kIndexed] = __shfl_sync(kAll, value, distance, width);
  mine[kUp] = __shfl_up_sync(kAll, value, static_cast<unsigned>(distance), width);
  mine[kDown] = __shfl_down_sync(kAll, value, static_cast<unsigned>(distance), width);
  mine[kXor] = __shfl_xor_sync(kAll, value, distance, width);
}

// The lane whose value a thread receives.
int source_lane(Kind kind, int lane, int distance, int width) {
  const int part = lane / width * width, place = lane % width;
  switch (kind) {
    case kIndexed:
      return part + distance % width;
    case kUp:
      return place >= distance ? lane - distance : lane;
    case kDown:
      return place + distance < width ? lane + distance : lane;
    default:
      return (lane ^ distance) < part + width ? lane ^ distance : lane;
  }
}

template <class T>
void shuffles_move_values() {
  const DeviceArray<T> results(kTestThreads * kKinds);
  for (int width : {2, 8, 32})
    for (int distance : {0, 1, 3, 16, 31}) {
      launch({"shuffle", 1, kTestThreads, nullptr}, shuffle_all<T>, results.data(), distance, width);
      synchronize();
      const std::vector<T> result = results.download();
      for (int i = 0; i < kTestThreads * kKinds; ++i) {
        const int thread = i / kKinds, lane = thread % 32;
        const int source = source_lane(static_cast<Kind>(i % kKinds), lane, distance, width);
        CHECK_EQUAL(result[static_cast<std::size_t>(i)], value_of<T>(thread - lane + source));
      }
    }
}

__global__ void votes(unsigned* results) {
  const unsigned lane = threadIdx.x % 32;
  unsigned* const mine = results + 4 * threadIdx.x;
  mine[0] = __ballot_sync(kAll, lane % 3 == 0);
  mine[1] = static_cast<unsigned>(__any_sync(kAll, threadIdx.x == 40));
  mine[2] = static_cast<unsigned>(__all_sync(kAll, threadIdx.x != 40));
  // The halves vote apart from each other.
  const unsigned half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
  mine[3] = lane < 16 ? __ballot_sync(half, lane % 2) : __ballot_sync(half, 1);
}

void votes_are_counted_per_warp_and_mask() {
  const DeviceArray<unsigned> results(4 * 64);
  launch({"votes", 1, 64, nullptr}, votes, results.data());
  synchronize();
  const std::vector<unsigned> result = results.download();
  for (std::size_t i = 0; i < 64; ++i) {
    CHECK_EQUAL(result[4 * i], 0x49249249u);
    CHECK_EQUAL(result[4 * i + 1], i < 32 ? 0u : 1u);
    CHECK_EQUAL(result[4 * i + 2], i < 32 ? 1u : 0u);
    CHECK_EQUAL(result[4 * i + 3], i % 32 < 16 ? 0x0000aaaau : 0xffff0000u);
  }
}

// Lanes hand values on through shared memory, ordered by __syncwarp alone.
__global__ void pass_on(int* values, int rounds) {
  GPU_SHARED(int, slots, 32);
  const unsigned lane = threadIdx.x;
  slots[lane] = static_cast<int>(lane);
  for (int round = 0; round < rounds; ++round) {
    __syncwarp();
    const int neighbour = slots[(lane + 1) % 32];
    __syncwarp();
    slots[lane] = neighbour;
  }
  values[lane] = slots[lane];
}

void a_warp_barrier_orders_memory() {
  const DeviceArray<int> values(32);
  launch({"pass on", 1, 32, nullptr}, pass_on, values.data(), 7);
  synchronize();
  const std::vector<int> result = values.download();
  for (int i = 0; i < 32; ++i) CHECK_EQUAL(result[static_cast<std::size_t>(i)], (i + 7) % 32);
}

}  // namespace

int main() {
  std::mt19937_64 random = fresh_random();
  in_every_order(random, [] {
    shuffles_move_values<int>();
    shuffles_move_values<unsigned>();
    shuffles_move_values<float>();
    shuffles_move_values<double>();
    shuffles_move_values<long long>();
    shuffles_move_values<std::uint64_t>();
    votes_are_counted_per_warp_and_mask();
    a_warp_barrier_orders_memory();
  });
}
