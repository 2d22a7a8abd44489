// Every operation against its definition, in every order that the emulation can think of; nothing synchronises the
// host.
#include <functional>
#include <iterator>
#include <thread>

#include "comm/nccl/ranks.hpp"
#include "core/error.hpp"

using namespace pyparallel;
using namespace pyparallel::nccl;
using emulation::StreamOrder;

namespace {

std::mt19937_64 random_numbers;

std::size_t draw(std::size_t limit) { return random_numbers() % limit; }

// Small integers: sums, means of powers of two and products of a few are exact in every dtype.
Bytes values(std::size_t count, DType dtype, int lowest = 0, int highest = 3) {
  Bytes bytes(count * item_size(dtype));
  for (std::size_t i = 0; i < count; ++i) {
    const int value = lowest + static_cast<int>(draw(static_cast<std::size_t>(highest - lowest + 1)));
    stand_in::set_element(bytes.data(), i, data_type(dtype), value);
  }
  return bytes;
}

double value(const Bytes& bytes, std::size_t index, DType dtype) {
  return stand_in::element(bytes.data(), index, data_type(dtype));
}

struct Case {
  int world_size;
  std::size_t count;
  DType dtype;
  std::size_t shift;  // of the tensors' addresses, in elements
};

std::string text(const Case& c) {
  return std::to_string(c.world_size) + " ranks, " + std::to_string(c.count) + " x " + name(c.dtype);
}

// Uploads `inputs`, runs `operation(rank, tensor)` on all ranks and gives what their streams see afterwards.
using Run = std::function<std::shared_ptr<Work>(int rank, const Operand& operand)>;
std::vector<Bytes> run(Ranks& ranks, const Case& c, const std::vector<Bytes>& inputs, std::size_t output_count,
                       bool in_place, std::size_t operand_count, const Run& operation) {
  const std::size_t item = item_size(c.dtype);
  std::vector<Tensor> outputs, sources;
  for (int r = 0; r < ranks.size(); ++r) {
    outputs.emplace_back(output_count * item, c.shift * item);
    sources.emplace_back(inputs[static_cast<std::size_t>(r)].size(), c.shift * item);
  }
  synchronize();
  for (int r = 0; r < ranks.size(); ++r) {
    const std::size_t i = static_cast<std::size_t>(r);
    Tensor& source = in_place ? outputs[i] : sources[i];
    source.upload(inputs[i], ranks.stream(r));
    const auto work = operation(r, {source.data(), outputs[i].data(), operand_count, c.dtype});
    work->wait(ranks.stream(r));
    outputs[i].consume(ranks.stream(r));
    if (!in_place) sources[i].consume(ranks.stream(r));
  }
  synchronize();
  std::vector<Bytes> results;
  for (const Tensor& output : outputs) {
    results.push_back(output.consumed());
    CHECK_EQUAL(output.front_is_untouched(), true);
  }
  for (int r = 0; r < ranks.size() && !in_place; ++r)
    CHECK_EQUAL(sources[static_cast<std::size_t>(r)].consumed() == inputs[static_cast<std::size_t>(r)], true);
  return results;
}

std::vector<Bytes> inputs_of(const Case& c, std::size_t count, int lowest = 0) {
  std::vector<Bytes> inputs;
  for (int r = 0; r < c.world_size; ++r) inputs.push_back(values(count, c.dtype, lowest));
  return inputs;
}

double reduced(const std::vector<Bytes>& inputs, std::size_t index, DType dtype, const Reduction& reduction) {
  double result = value(inputs[0], index, dtype) * reduction.factor.value_or(1);
  for (std::size_t r = 1; r < inputs.size(); ++r) {
    const double next = value(inputs[r], index, dtype) * reduction.factor.value_or(1);
    result = reduction.op == RedOp::kProd  ? result * next
             : reduction.op == RedOp::kMax ? std::max(result, next)
             : reduction.op == RedOp::kMin ? std::min(result, next)
                                           : result + next;
  }
  return reduction.op == RedOp::kAvg ? result / static_cast<double>(inputs.size()) : result;
}

std::vector<Reduction> reductions(const Case& c) {
  std::vector<Reduction> all{{RedOp::kSum}, {RedOp::kProd}, {RedOp::kMax}, {RedOp::kMin}};
  const bool floating = c.dtype != DType::kInt32 && c.dtype != DType::kInt64 && c.dtype != DType::kUInt8;
  if (floating && c.world_size != 3) all.push_back({RedOp::kAvg});
  if (floating) all.push_back({RedOp::kSum, 0.5});
  return all;
}

void reductions_combine(Ranks& ranks, const Case& c) {
  const int root = static_cast<int>(draw(static_cast<std::size_t>(c.world_size)));
  for (const Reduction& reduction : reductions(c)) {
    const auto inputs = inputs_of(c, c.count);
    const auto all = run(ranks, c, inputs, c.count, true, c.count, [&](int r, const Operand& operand) {
      return ranks[r].all_reduce(operand, reduction, ranks.stream(r));
    });
    const auto one = run(ranks, c, inputs, c.count, false, c.count, [&](int r, const Operand& operand) {
      return ranks[r].reduce(operand, reduction, root, ranks.stream(r));
    });
    for (std::size_t i = 0; i < c.count; ++i) {
      const double expected = reduced(inputs, i, c.dtype, reduction);
      for (const Bytes& result : all) CHECK_EQUAL(value(result, i, c.dtype), expected);
      CHECK_EQUAL(value(one[static_cast<std::size_t>(root)], i, c.dtype), expected);
    }
  }
}

void reduce_scatter_gives_parts(Ranks& ranks, const Case& c) {
  const std::size_t parts = static_cast<std::size_t>(c.world_size);
  for (const Reduction& reduction : reductions(c)) {
    const auto inputs = inputs_of(c, c.count * parts);
    const auto results = run(ranks, c, inputs, c.count, false, c.count, [&](int r, const Operand& operand) {
      return ranks[r].reduce_scatter(operand, reduction, ranks.stream(r));
    });
    for (std::size_t r = 0; r < parts; ++r)
      for (std::size_t i = 0; i < c.count; ++i)
        CHECK_EQUAL(value(results[r], i, c.dtype), reduced(inputs, r * c.count + i, c.dtype, reduction));
  }
}

void data_moves(Ranks& ranks, const Case& c) {
  const std::size_t parts = static_cast<std::size_t>(c.world_size), item = item_size(c.dtype);
  const int root = static_cast<int>(draw(parts));
  const auto inputs = inputs_of(c, c.count), wholes = inputs_of(c, c.count * parts);
  Bytes joined;
  for (const Bytes& input : inputs) joined.insert(joined.end(), input.begin(), input.end());
  const auto run_on = [&](const std::vector<Bytes>& from, std::size_t output_count, bool in_place, const auto& call) {
    return run(ranks, c, from, output_count, in_place, c.count,
               [&](int r, const Operand& operand) { return call(ranks[r], operand, ranks.stream(r)); });
  };
  const auto gathered = run_on(
      inputs, c.count * parts, false,
      [](Communicator& comm, const Operand& operand, Stream stream) { return comm.all_gather(operand, stream); });
  for (const Bytes& result : gathered) CHECK_EQUAL(result == joined, true);
  const auto same = run_on(inputs, c.count, true, [&](Communicator& comm, const Operand& operand, Stream stream) {
    return comm.broadcast(operand, root, stream);
  });
  for (const Bytes& result : same) CHECK_EQUAL(result == inputs[static_cast<std::size_t>(root)], true);
  const auto collected = run_on(
      inputs, c.count * parts, false,
      [&](Communicator& comm, const Operand& operand, Stream stream) { return comm.gather(operand, root, stream); });
  CHECK_EQUAL(collected[static_cast<std::size_t>(root)] == joined, true);
  const auto scattered = run_on(wholes, c.count, false, [&](Communicator& comm, const Operand& operand, Stream stream) {
    return comm.scatter(operand, root, stream);
  });
  for (std::size_t r = 0; r < parts; ++r) {
    const auto first = wholes[static_cast<std::size_t>(root)].begin() + static_cast<std::ptrdiff_t>(r * c.count * item);
    CHECK_EQUAL(scattered[r] == Bytes(first, first + static_cast<std::ptrdiff_t>(c.count * item)), true);
  }
}

// Parts of any size, some of them empty.
void parts_change_places(Ranks& ranks, const Case& c) {
  const std::size_t parts = static_cast<std::size_t>(c.world_size), item = item_size(c.dtype);
  std::vector<std::vector<std::size_t>> to(parts, std::vector<std::size_t>(parts)), from(to);
  std::vector<Bytes> inputs;
  std::size_t largest = 0;
  for (std::size_t a = 0; a < parts; ++a)
    for (std::size_t b = 0; b < parts; ++b) from[b][a] = to[a][b] = draw(3) == 0 ? 0 : draw(c.count + 1);
  for (std::size_t a = 0; a < parts; ++a) {
    std::size_t sent = 0, received = 0;
    for (std::size_t b = 0; b < parts; ++b) sent += to[a][b], received += from[a][b];
    inputs.push_back(values(sent, c.dtype));
    largest = std::max(largest, received);
  }
  const auto results = run(ranks, c, inputs, largest, false, 0, [&](int r, const Operand& operand) {
    const std::size_t i = static_cast<std::size_t>(r);
    return ranks[r].all_to_all(operand, from[i], to[i], ranks.stream(r));
  });
  for (std::size_t b = 0; b < parts; ++b) {
    Bytes expected;
    for (std::size_t a = 0; a < parts; ++a) {
      std::size_t begin = 0;
      for (std::size_t other = 0; other < b; ++other) begin += to[a][other];
      const auto first = inputs[a].begin() + static_cast<std::ptrdiff_t>(begin * item);
      expected.insert(expected.end(), first, first + static_cast<std::ptrdiff_t>(to[a][b] * item));
    }
    CHECK_EQUAL(std::equal(expected.begin(), expected.end(), results[b].begin()), true);
  }
}

// Along a line: each rank but the last sends on what it has received.
void messages_pass_along(Ranks& ranks, const Case& c) {
  const auto inputs = inputs_of(c, c.count);
  const auto results = run(ranks, c, inputs, c.count, true, c.count, [&](int r, const Operand& operand) {
    std::shared_ptr<Work> work = ranks[r].barrier(ranks.stream(r));
    if (r > 0) work = ranks[r].recv(operand, r - 1, ranks.stream(r));
    if (r < c.world_size - 1) work = ranks[r].send(operand, r + 1, ranks.stream(r));
    return work;
  });
  for (const Bytes& result : results) CHECK_EQUAL(result == inputs[0], true);
}

void everything_holds(const Case& c) {
  std::cout << text(c) << std::endl;
  stand_in::reset();
  {
    Ranks ranks(c.world_size);
    reductions_combine(ranks, c);
    reduce_scatter_gives_parts(ranks, c);
    data_moves(ranks, c);
    parts_change_places(ranks, c);
    messages_pass_along(ranks, c);
  }
  CHECK_EQUAL(stand_in::open_communicators(), 0);
  CHECK_EQUAL(stand_in::open_operators(), 0);
  CHECK_EQUAL(stand_in::aborted_communicators(), 0);
}

void configure(StreamOrder order) {
  emulation::Config config;
  config.streams = order;
  config.seed = random_numbers();
  emulation::configure(config);
}

// A non-blocking call is through only when NCCL says so; what is recorded before would mark nothing.
void calls_in_progress_are_awaited() {
  stand_in::plan({.polls = 3});
  everything_holds({2, 17, DType::kFloat32, 0});
}

void a_library_without_configurations_serves(int world_size) {
  Library old = stand_in::library();
  old.CommInitRankConfig = nullptr;
  old.CommFinalize = nullptr;
  old.GetLastError = nullptr;
  old.RedOpCreatePreMulSum = nullptr;
  old.version = 20900;
  Ranks ranks(world_size, without_thread(), old);
  const Case c{world_size, 9, DType::kFloat32, 0};
  parts_change_places(ranks, c);
  const Operand none{nullptr, nullptr, 0, DType::kFloat32};
  CHECK_THROWS(ranks[0].all_reduce(none, {RedOp::kAvg}, ranks.stream(0)), NcclError);
  CHECK_THROWS(ranks[0].all_reduce(none, {RedOp::kSum, 2.0}, ranks.stream(0)), NcclError);
}

void times_are_known_once_the_device_has_passed() {
  Ranks ranks(2);
  std::vector<std::shared_ptr<Work>> works;
  for (int r = 0; r < 2; ++r) works.push_back(ranks[r].barrier(ranks.stream(r)));
  CHECK_EQUAL(works[0]->is_completed(), false);
  CHECK_EQUAL(works[0]->ended_ns(), 0);
  synchronize();
  for (const auto& work : works) {
    CHECK_EQUAL(work->is_completed(), true);
    CHECK_EQUAL(work->error() == nullptr, true);
    CHECK_EQUAL(work->started_ns() > 0, true);
    CHECK_EQUAL(work->started_ns() <= work->ended_ns(), true);
  }
}

// Split waits for all ranks, so each has a thread here.
void parts_of_a_split_are_worlds_of_their_own() {
  configure(StreamOrder::kHostThreads);
  {
    Ranks ranks(4);
    std::vector<std::unique_ptr<Communicator>> parts(4);
    std::vector<std::thread> threads;
    for (int r = 0; r < 4; ++r)
      threads.emplace_back(
          [&, r] { parts[static_cast<std::size_t>(r)] = ranks[r].split(r == 3 ? kNoColor : r % 2, -r); });
    for (std::thread& thread : threads) thread.join();
    CHECK_EQUAL(parts[3] == nullptr, true);
    CHECK_EQUAL(parts[0]->world_size(), 2);
    CHECK_EQUAL(parts[1]->world_size(), 1);
    CHECK_EQUAL(parts[0]->rank(), 1);  // key 0 comes after key -2
    CHECK_EQUAL(parts[2]->rank(), 0);
    const auto first = parts[0]->barrier(ranks.stream(0)), second = parts[2]->barrier(ranks.stream(2));
    first->wait(ranks.stream(0));
    second->wait(ranks.stream(2));
    synchronize();
    CHECK_EQUAL(first->is_completed(), true);
  }
  emulation::configure({});
}

// A captured operation is a part of the graph: it runs whenever the graph does, and has no times.
void graphs_repeat_operations() {
  Ranks ranks(2);
  std::vector<Tensor> tensors;
  std::vector<cudaGraphExec_t> graphs(2);
  for (int r = 0; r < 2; ++r) tensors.emplace_back(8 * sizeof(float));
  synchronize();
  const Bytes ones = values(8, DType::kFloat32, 1, 1);
  for (int r = 0; r < 2; ++r) {
    const std::size_t i = static_cast<std::size_t>(r);
    tensors[i].upload(ones, ranks.stream(r));
    check_cuda(cudaStreamBeginCapture(ranks.stream(r), cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
    const auto work =
        ranks[r].all_reduce({tensors[i].data(), tensors[i].data(), 8, DType::kFloat32}, {}, ranks.stream(r));
    work->wait(ranks.stream(r));
    cudaGraph_t graph;
    check_cuda(cudaStreamEndCapture(ranks.stream(r), &graph), "cudaStreamEndCapture");
    check_cuda(cudaGraphInstantiate(&graphs[i], graph, 0), "cudaGraphInstantiate");
    check_cuda(cudaGraphDestroy(graph), "cudaGraphDestroy");
    CHECK_EQUAL(work->ended_ns(), 0);
  }
  // The stand-in's operations can run once, so the graphs are launched once.
  for (int r = 0; r < 2; ++r)
    check_cuda(cudaGraphLaunch(graphs[static_cast<std::size_t>(r)], ranks.stream(r)), "launch");
  for (int r = 0; r < 2; ++r) tensors[static_cast<std::size_t>(r)].consume(ranks.stream(r));
  synchronize();
  for (int r = 0; r < 2; ++r) {
    const Bytes result = tensors[static_cast<std::size_t>(r)].consumed();
    for (std::size_t i = 0; i < 8; ++i) CHECK_EQUAL(value(result, i, DType::kFloat32), 2.0);
    check_cuda(cudaGraphExecDestroy(graphs[static_cast<std::size_t>(r)]), "cudaGraphExecDestroy");
  }
}

}  // namespace

int main() {
  random_numbers = fresh_random();
  constexpr DType kDTypes[] = {DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kFloat16,
                               DType::kInt32,   DType::kInt64,   DType::kUInt8};
  for (int world_size = 1; world_size <= 4; ++world_size)
    for (std::size_t count : {std::size_t{0}, std::size_t{1}, 2 + draw(60)}) {
      configure(draw(4) == 0 ? StreamOrder::kHostThreads : StreamOrder::kRandom);
      everything_holds({world_size, count, kDTypes[draw(std::size(kDTypes))], draw(3)});
    }
  configure(StreamOrder::kRandom);
  calls_in_progress_are_awaited();
  stand_in::plan({});
  a_library_without_configurations_serves(1);
  times_are_known_once_the_device_has_passed();
  graphs_repeat_operations();
  parts_of_a_split_are_worlds_of_their_own();
}
