// Streams under emulation: each in order, all of them free against each other but for events, and nothing before its
// time.
#include <array>

#include "device.hpp"

using namespace pyparallel;
using emulation::StreamOrder;

namespace {

class TestEvent {
 public:
  TestEvent() { check_cuda(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "cudaEventCreate"); }
  ~TestEvent() { cudaEventDestroy(event_); }
  TestEvent(const TestEvent&) = delete;
  TestEvent& operator=(const TestEvent&) = delete;
  operator cudaEvent_t() const { return event_; }

 private:
  cudaEvent_t event_;
};

__global__ void append(int* list, int value) { list[++list[0]] = value; }

void append_on(cudaStream_t stream, int* list, int value) { launch({"append", 1, 1, stream}, append, list, value); }

void configure(StreamOrder order, std::uint64_t seed = 1) {
  emulation::Config config;
  config.streams = order;
  config.seed = seed;
  emulation::configure(config);
}

void a_stream_keeps_its_order() {
  const auto list = device_zeros<int>(9);
  const TestStream stream;
  synchronize();
  for (int i = 1; i <= 8; ++i) append_on(stream, list.data(), i);
  synchronize();
  const std::vector<int> result = list.download();
  for (int i = 1; i <= 8; ++i) CHECK_EQUAL(result[static_cast<std::size_t>(i)], i);
}

// Three streams append to one list; events chain them in the order 2, 0, 1, whatever runs first.
void events_order_streams() {
  const auto list = device_zeros<int>(7);
  const std::array<TestStream, 3> streams;
  const std::array<TestEvent, 3> events;
  synchronize();
  cudaEvent_t before = nullptr;
  for (std::size_t stream : {2, 0, 1}) {
    if (before != nullptr) check_cuda(cudaStreamWaitEvent(streams[stream], before, 0), "cudaStreamWaitEvent");
    append_on(streams[stream], list.data(), static_cast<int>(stream));
    append_on(streams[stream], list.data(), static_cast<int>(stream));
    check_cuda(cudaEventRecord(events[stream], streams[stream]), "cudaEventRecord");
    before = events[stream];
  }
  check_cuda(cudaEventSynchronize(before), "cudaEventSynchronize");
  const std::vector<int> result = list.download();
  const int expected[] = {6, 2, 2, 0, 0, 1, 1};
  for (std::size_t i = 0; i < 7; ++i) CHECK_EQUAL(result[i], expected[i]);
}

// A wait is for the record before it: one that comes later does not delay it, one that never came does not either.
void a_wait_is_for_the_last_record_before_it() {
  const auto list = device_zeros<int>(4);
  const TestStream first, second;
  const TestEvent event, never;
  synchronize();
  append_on(first, list.data(), 1);
  check_cuda(cudaEventRecord(event, first), "cudaEventRecord");
  check_cuda(cudaStreamWaitEvent(second, event, 0), "cudaStreamWaitEvent");
  check_cuda(cudaStreamWaitEvent(second, never, 0), "cudaStreamWaitEvent");
  append_on(second, list.data(), 2);
  check_cuda(cudaStreamSynchronize(second), "cudaStreamSynchronize");
  append_on(first, list.data(), 3);
  check_cuda(cudaEventRecord(event, first), "cudaEventRecord");
  check_cuda(cudaEventSynchronize(event), "cudaEventSynchronize");
  const std::vector<int> result = list.download();
  for (int i = 1; i <= 3; ++i) CHECK_EQUAL(result[static_cast<std::size_t>(i)], i);
}

void queries_come_to_an_end() {
  const auto list = device_zeros<int>(9);
  const TestStream stream;
  const TestEvent event;
  synchronize();
  CHECK_EQUAL(cudaEventQuery(event), cudaSuccess);  // never recorded
  for (int i = 0; i < 8; ++i) append_on(stream, list.data(), i);
  check_cuda(cudaEventRecord(event, stream), "cudaEventRecord");
  while (cudaEventQuery(event) == cudaErrorNotReady) {
  }
  CHECK_EQUAL(cudaStreamQuery(stream), cudaSuccess);
  CHECK_EQUAL(cudaGetLastError(), cudaSuccess);
  CHECK_EQUAL(list.download()[0], 8);
}

void host_functions_run_in_order() {
  const auto list = device_zeros<int>(2);
  const TestStream stream;
  synchronize();
  struct Seen {
    const int* list;
    int count;
  } seen{list.data(), -1};
  append_on(stream, list.data(), 5);
  const auto look = [](void* argument) {
    Seen& place = *static_cast<Seen*>(argument);
    place.count = place.list[0];
  };
  check_cuda(cudaLaunchHostFunc(stream, look, &seen), "cudaLaunchHostFunc");
  check_cuda(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  CHECK_EQUAL(seen.count, 1);
}

void everything_holds() {
  a_stream_keeps_its_order();
  events_order_streams();
  a_wait_is_for_the_last_record_before_it();
  queries_come_to_an_end();
  host_functions_run_in_order();
}

__global__ void mark(int* marks, unsigned* next, int value) { marks[atomicAdd(next, 1)] = value; }

// The streams whose operations ran, in that order.
std::vector<int> interleaving(const std::array<TestStream, 3>& streams) {
  const auto marks = device_zeros<int>(9);
  const auto next = device_zeros<unsigned>(1);
  synchronize();
  for (int i = 0; i < 9; ++i)
    launch({"mark", 1, 1, streams[static_cast<std::size_t>(i % 3)]}, mark, marks.data(), next.data(), i % 3);
  synchronize();
  return marks.download();
}

void a_preferred_stream_goes_first() {
  const std::array<TestStream, 3> streams;
  for (std::size_t preferred = 0; preferred < 3; ++preferred) {
    configure(StreamOrder::kPreferred, preferred);
    emulation::prefer_stream(streams[preferred]);
    const std::vector<int> order = interleaving(streams);
    for (std::size_t i = 0; i < 3; ++i) CHECK_EQUAL(order[i], static_cast<int>(preferred));
  }
}

void a_seed_repeats_an_interleaving() {
  const std::array<TestStream, 3> streams;
  int different = 0;
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    configure(StreamOrder::kRandom, seed);
    const std::vector<int> once = interleaving(streams);
    configure(StreamOrder::kRandom, seed);
    CHECK_EQUAL(once == interleaving(streams), true);
    configure(StreamOrder::kRandom, seed + 1);
    different += once != interleaving(streams);
  }
  CHECK_EQUAL(different > 0, true);
}

}  // namespace

int main() {
  std::mt19937_64 random = fresh_random();
  for (int repeat = 0; repeat < 10; ++repeat) {
    configure(StreamOrder::kRandom, random());
    everything_holds();
  }
  configure(StreamOrder::kHostThreads);
  for (int repeat = 0; repeat < 10; ++repeat) everything_holds();
  a_preferred_stream_goes_first();
  a_seed_repeats_an_interleaving();
  emulation::configure({});
}
