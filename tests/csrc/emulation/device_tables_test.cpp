// Long lists under emulation: one launch for thousands of tensors, the same bits as in many launches; tables outlive
// the launches and the graphs that read them, whatever changes meanwhile.
#include "core/device_tables.hpp"

#include <numeric>

#include "kernels/adam.hpp"
#include "kernels/lamb.hpp"
#include "tensors.hpp"

using namespace pyparallel;

namespace {

constexpr std::size_t kTensors = 500;  // more than arguments hold
constexpr std::size_t kThousands = emulation::kTsan ? 900 : 5000;
const StepTypes kTypes{DType::kFloat32, DType::kFloat32, DType::kFloat32};
const AdamHyper kAdam{1e-2, 0.9, 0.99, 1e-8, 0.1, true, false};
const LambHyper kLamb{1e-2, 0.9, 0.99, 1e-2, 0.1, 10.0, true, true};

// Mixed sizes, empty ones in front, between and at the end, some of several chunks.
std::vector<std::size_t> mixed_sizes(std::mt19937_64& random, std::size_t count = kTensors) {
  std::vector<std::size_t> sizes = many_sizes(count, random);
  sizes.front() = sizes.back() = 0;
  for (std::size_t i = 100; i < count; i += count / 3) sizes[i] = 4500 + random() % 9;
  return sizes;
}

// A list of parameters in a few arrays, and the tables that belong to it.
struct List {
  std::vector<std::size_t> sizes;
  std::size_t total;
  DeviceArray<float> params, grads, exp_avgs, exp_avg_sqs, steps;
  DeviceArray<double> factors, workspace;
  std::vector<StepTensor> tensors;

  List(const std::vector<std::size_t>& sizes_, std::uint64_t seed)
      : sizes(sizes_),
        total(std::accumulate(sizes.begin(), sizes.end(), std::size_t{0})),
        params(normals(total, seed)),
        grads(normals(total, seed + 1)),
        exp_avgs(std::vector<float>(total)),
        exp_avg_sqs(std::vector<float>(total)),
        steps(std::vector<float>(sizes.size())),
        factors(std::vector<double>(sizes.size(), 1.0)),
        workspace(static_cast<std::size_t>(measure_workspace(static_cast<std::int64_t>(sizes.size()))) / 8) {
    std::size_t offset = 0;
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      tensors.push_back({params.data() + offset,
                         grads.data() + offset,
                         {exp_avgs.data() + offset, exp_avg_sqs.data() + offset, nullptr},
                         nullptr,
                         steps.data() + i,
                         factors.data() + i,
                         static_cast<std::int64_t>(sizes[i]),
                         static_cast<std::uint32_t>(i)});
      offset += sizes[i];
    }
  }

  static std::vector<float> normals(std::size_t count, std::uint64_t seed) {
    std::mt19937_64 random(seed);
    std::normal_distribution<float> normal;
    std::vector<float> values(count);
    for (float& value : values) value = normal(random);
    return values;
  }

  // As if all gradients had been allocated anew.
  void use_gradients(const DeviceArray<float>& others) {
    std::size_t offset = 0;
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      tensors[i].grad = others.data() + offset;
      offset += sizes[i];
    }
  }

  std::int64_t count() const { return static_cast<std::int64_t>(tensors.size()); }

  void adam(DeviceTables* tables, cudaStream_t stream) const {
    adam_cuda(tensors.data(), count(), kTypes, kAdam, {}, 0, stream, tables);
  }

  void lamb(DeviceTables* tables, cudaStream_t stream) const {
    StepControl control;
    control.workspace = workspace.data();
    lamb_cuda(tensors.data(), count(), kTypes, kLamb, control, 0, stream, tables);
  }

  void check(const List& expected) const {
    synchronize();
    CHECK_EQUAL(params.download() == expected.params.download(), true);
    CHECK_EQUAL(exp_avgs.download() == expected.exp_avgs.download(), true);
    CHECK_EQUAL(exp_avg_sqs.download() == expected.exp_avg_sqs.download(), true);
    CHECK_EQUAL(steps.download() == expected.steps.download(), true);
    CHECK_EQUAL(factors.download() == expected.factors.download(), true);
  }
};

// One launch that counts the steps and one that takes them; measuring and the factors are one each, too.
void a_long_list_is_one_launch(std::mt19937_64& random) {
  const std::vector<std::size_t> sizes = mixed_sizes(random, kThousands);
  const std::uint64_t seed = random();
  List one(sizes, seed), many(sizes, seed);
  DeviceTables tables;
  const TestStream stream;
  for (int step = 0; step < 2; ++step) {
    const std::int64_t before = emulation::launch_count();
    one.adam(&tables, stream);
    CHECK_EQUAL(emulation::launch_count() - before, 2);
    many.adam(nullptr, stream);
  }
  one.check(many);
  CHECK_EQUAL(one.steps.download().back(), 2.0f);  // of an empty tensor
  const std::int64_t before = emulation::launch_count();
  one.lamb(&tables, stream);
  CHECK_EQUAL(emulation::launch_count() - before, 4);
  synchronize();
}

// Measuring cuts a list in another way: the sums and factors of one launch are those of the list on its own.
void measures_in_one_launch(std::mt19937_64& random) {
  const std::vector<std::size_t> sizes = mixed_sizes(random);
  const std::uint64_t seed = random();
  List one(sizes, seed), many(sizes, seed);
  DeviceTables tables;
  const TestStream stream;
  for (int step = 0; step < 2; ++step) {
    one.lamb(&tables, stream);
    many.lamb(nullptr, stream);
  }
  one.check(many);
}

void a_short_list_takes_no_table(std::mt19937_64& random) {
  const std::vector<std::size_t> sizes = many_sizes(300, random);
  const std::uint64_t seed = random();
  List one(sizes, seed), other(sizes, seed);
  DeviceTables tables;
  one.adam(&tables, nullptr);
  other.adam(nullptr, nullptr);
  one.check(other);
}

void nothing_but_empty_tensors(std::mt19937_64& random) {
  const List list(std::vector<std::size_t>(kTensors, 0), random());
  DeviceTables tables;
  list.adam(&tables, nullptr);
  list.lamb(&tables, nullptr);
  synchronize();
  for (float step : list.steps.download()) CHECK_EQUAL(step, 2.0f);
}

// Uploaded when told so, and not otherwise.
void a_table_is_kept_until_the_list_changes(std::mt19937_64& random) {
  const std::vector<std::size_t> sizes = mixed_sizes(random);
  const std::uint64_t seed = random();
  List list(sizes, seed), expected(sizes, seed);
  const DeviceArray<float> others(List::normals(list.total, random()));
  const TestStream stream;
  DeviceTables tables;
  list.adam(&tables, stream);
  expected.adam(nullptr, stream);
  list.use_gradients(others);
  list.adam(&tables, stream);  // still the old ones
  expected.adam(nullptr, stream);
  tables.change();
  list.adam(&tables, stream);
  expected.use_gradients(others);
  expected.adam(nullptr, stream);
  list.check(expected);
}

// Nothing runs before the host waits: every launch still finds the table that was its own.
void changes_do_not_touch_what_is_in_flight(std::mt19937_64& random) {
  const std::vector<std::size_t> sizes = mixed_sizes(random);
  const std::uint64_t seed = random();
  List list(sizes, seed), expected(sizes, seed);
  const TestStream stream;
  std::vector<DeviceArray<float>> gradients;
  {
    DeviceTables tables;
    for (int step = 0; step < 4; ++step) {
      gradients.emplace_back(List::normals(list.total, random()));
      for (List* each : {&list, &expected}) each->use_gradients(gradients.back());
      tables.change();
      list.adam(&tables, stream);
      expected.adam(nullptr, stream);
    }
  }
  // The list is gone, its launches are not. Another one must not write where they read.
  List next(sizes, random());
  const TestStream other;
  DeviceTables tables;
  next.adam(&tables, other);
  list.check(expected);
  list.adam(&tables, stream);  // after everything has passed, memory is used again
  synchronize();
}

// A launch on a second stream waits for the upload on the first, though the program has no other order to ask for.
void other_streams_wait_for_the_upload(std::mt19937_64& random) {
  const std::vector<std::size_t> sizes = mixed_sizes(random);
  const std::uint64_t seed = random();
  List list(sizes, seed), expected(sizes, seed);
  const DeviceArray<float> flag(std::vector<float>{1.0f});
  StepControl skip;
  skip.found_inf = flag.data();
  const TestStream first, second;
  emulation::Config config = emulation::config();
  config.streams = emulation::StreamOrder::kPreferred;
  emulation::configure(config);
  emulation::prefer_stream(second);
  DeviceTables tables;
  adam_cuda(list.tensors.data(), list.count(), kTypes, kAdam, skip, 0, first, &tables);
  list.adam(&tables, second);
  expected.adam(nullptr, second);
  list.check(expected);
  config.streams = emulation::StreamOrder::kRandom;
  emulation::configure(config);
}

cudaGraphExec_t captured(const List& list, DeviceTables& tables, cudaStream_t stream) {
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
  list.adam(&tables, stream);
  check_cuda(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  check_cuda(cudaGraphInstantiate(&exec, graph, 0), "cudaGraphInstantiate");
  cudaGraphDestroy(graph);
  return exec;
}

// With and without eager steps before it, and after the list has changed and gone.
void replays_are_eager_steps(std::mt19937_64& random, bool warm) {
  const std::vector<std::size_t> sizes = mixed_sizes(random);
  const std::uint64_t seed = random();
  List list(sizes, seed), expected(sizes, seed);
  const DeviceArray<float> first(List::normals(list.total, random())), others(List::normals(list.total, random()));
  for (List* each : {&list, &expected}) each->use_gradients(first);
  const TestStream stream;
  const auto expect_step = [&](const DeviceArray<float>& gradients) {
    expected.use_gradients(gradients);
    expected.adam(nullptr, stream);
  };
  cudaGraphExec_t exec;
  {
    DeviceTables tables;
    if (warm) list.adam(&tables, stream), expect_step(first);
    exec = captured(list, tables, stream);
    list.adam(&tables, stream), expect_step(first);  // eager, with the graph's table
    list.use_gradients(others);
    tables.change();
    list.adam(&tables, stream), expect_step(others);
    check_cuda(cudaGraphLaunch(exec, stream), "cudaGraphLaunch"), expect_step(first);
  }
  List next(sizes, random());
  DeviceTables tables;
  synchronize();
  next.adam(&tables, stream);
  check_cuda(cudaGraphLaunch(exec, stream), "cudaGraphLaunch"), expect_step(first);
  list.check(expected);
  cudaGraphExecDestroy(exec);
}

}  // namespace

int main() {
  std::mt19937_64 random = fresh_random();
  emulation::Config config;
  config.guard_device_memory = false;
  config.max_block_threads = 32;  // blocks of a warp: most tensors are small
  emulation::configure(config);
  a_long_list_is_one_launch(random);
  measures_in_one_launch(random);
  a_short_list_takes_no_table(random);
  nothing_but_empty_tensors(random);
  a_table_is_kept_until_the_list_changes(random);
  changes_do_not_touch_what_is_in_flight(random);
  other_streams_wait_for_the_upload(random);
  for (bool warm : {false, true}) replays_are_eager_steps(random, warm);
}
