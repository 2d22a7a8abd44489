// Ring and direct reductions equal a slow reference bit for bit, whatever the size of a piece and whoever runs first.
#include "comm/nccl/algorithms.hpp"

#include <cmath>
#include <functional>
#include <type_traits>

#include "comm/nccl/ranks.hpp"
#include "core/error.hpp"
#include "core/float16.hpp"

using namespace pyparallel;
using namespace pyparallel::nccl;
using emulation::StreamOrder;

namespace {

std::mt19937_64 random_numbers;

std::size_t draw(std::size_t limit) { return random_numbers() % limit; }

struct Case {
  int world_size;
  std::size_t count, piece_bytes, shift;
  Algorithm algorithm;
  bool scattered;
  Combination combination;
};

// ---- the reference ----

template <class T>
inline constexpr bool kHalf = std::is_same_v<T, BFloat16> || std::is_same_v<T, Float16>;

template <class T>
auto widened(T value) {
  if constexpr (kHalf<T>)
    return isa_baseline::to_float(value);
  else
    return value;
}

template <class T, class A>
T narrowed(A value) {
  if constexpr (kHalf<T>)
    return isa_baseline::from_float<T>(value);
  else
    return value;
}

template <class A>
A combined(A a, A b, Accumulation op) {
  if (op == Accumulation::kProduct) return a * b;
  if (op == Accumulation::kMax) return a > b ? a : b;
  if (op == Accumulation::kMin) return a < b ? a : b;
  return a + b;
}

// One element of the result. `order`: the ranks in which it is combined; the ring rounds after each of them.
template <class T>
T element_of(const std::vector<T>& values, const std::vector<std::size_t>& order, const Case& c) {
  using A = decltype(widened(T{}));
  const auto factor = [&](A value) {
    if constexpr (std::is_floating_point_v<A>)
      if (c.combination.factor) return value * static_cast<A>(*c.combination.factor);
    return value;
  };
  // A factor is applied by the rank that sends: what is sent is rounded to the dtype.
  const bool rounded = c.algorithm == Algorithm::kRing;
  const auto sent = [&](std::size_t rank) { return widened(narrowed<T>(factor(widened(values[rank])))); };
  A sum = c.world_size == 1 && rounded ? factor(widened(values[0])) : sent(order[0]);
  for (std::size_t k = 1; k < order.size(); ++k) {
    const A next = rounded ? factor(widened(values[order[k]])) : sent(order[k]);
    sum = combined(sum, next, c.combination.op);
    if (rounded && k + 1 < order.size()) sum = widened(narrowed<T>(sum));
  }
  if constexpr (std::is_floating_point_v<A>)
    if (c.combination.mean) sum = sum * static_cast<A>(1.0 / c.world_size);
  return narrowed<T>(sum);
}

template <class T>
std::vector<T> reference(const std::vector<std::vector<T>>& inputs, DType dtype, const Case& c) {
  const std::size_t ranks = inputs.size();
  std::vector<T> result(inputs[0].size());
  for (std::size_t chunk = 0; chunk < ranks; ++chunk) {
    std::vector<std::size_t> order;
    for (std::size_t k = 0; k < ranks; ++k)
      order.push_back(c.algorithm == Algorithm::kRing ? (chunk + 1 + k) % ranks : k);
    const Chunk range =
        c.scattered ? Chunk{chunk * c.count, c.count} : chunk_of(c.count, c.world_size, static_cast<int>(chunk), dtype);
    for (std::size_t i = range.begin; i < range.begin + range.count; ++i) {
      std::vector<T> values;
      for (const auto& input : inputs) values.push_back(input[i]);
      result[i] = element_of(values, order, c);
    }
  }
  return result;
}

// ---- the check ----

template <class T>
T random_value() {
  if constexpr (std::is_integral_v<T>)
    return static_cast<T>(static_cast<int>(draw(2001)) - 1000);
  else
    return narrowed<T>(static_cast<decltype(widened(T{}))>(std::normal_distribution<double>()(random_numbers)));
}

template <class T>
Bytes bytes_of(const std::vector<T>& values) {
  Bytes bytes(values.size() * sizeof(T));
  if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

template <class T>
void check_squares(const DeviceArray<double>& squares, const std::vector<T>& result, const Chunk& chunk) {
  double sum = 0;
  bool finite = true;
  for (std::size_t i = chunk.begin; i < chunk.begin + chunk.count; ++i) {
    const double value = static_cast<double>(widened(result[i]));
    sum += value * value;
    finite = finite && std::isfinite(value);
  }
  const std::vector<double> measured = squares.download();
  CHECK_EQUAL(measured[1], finite ? 0.0 : 1.0);
  if (finite) CHECK_CLOSE(measured[0], sum, 1e-6 * sum);  // runs of a few elements are added in float
}

template <class T>
void equals_the_reference(Ranks& ranks, DType dtype, const Case& c, bool not_finite) {
  const std::size_t parts = static_cast<std::size_t>(c.world_size), whole = c.scattered ? c.count * parts : c.count;
  std::vector<std::vector<T>> inputs(parts, std::vector<T>(whole));
  for (auto& input : inputs)
    for (T& value : input) value = random_value<T>();
  if constexpr (!std::is_integral_v<T>)
    if (not_finite && whole > 0) inputs[draw(parts)][draw(whole)] = narrowed<T>(decltype(widened(T{}))(INFINITY));
  std::vector<Tensor> sources, outputs;
  std::vector<DeviceArray<double>> squares;
  for (std::size_t r = 0; r < parts; ++r) {
    sources.emplace_back(whole * sizeof(T), c.shift * sizeof(T));
    outputs.emplace_back((c.scattered ? c.count : 0) * sizeof(T), c.shift * sizeof(T));
    squares.emplace_back(2);
  }
  synchronize();
  for (std::size_t r = 0; r < parts; ++r) {
    const int rank = static_cast<int>(r);
    Combination combination = c.combination;
    combination.piece_bytes = c.piece_bytes;
    if (combination.squares != nullptr) combination.squares = squares[r].data();
    sources[r].upload(bytes_of(inputs[r]), ranks.stream(rank));
    const Operand operand{sources[r].data(), c.scattered ? outputs[r].data() : sources[r].data(), c.count, dtype};
    const auto work = c.scattered ? reduce_scatter(ranks[rank], c.algorithm, operand, combination, ranks.stream(rank))
                                  : all_reduce(ranks[rank], c.algorithm, operand, combination, ranks.stream(rank));
    work->wait(ranks.stream(rank));
    (c.scattered ? outputs : sources)[r].consume(ranks.stream(rank));
    if (c.scattered) sources[r].consume(ranks.stream(rank));
  }
  synchronize();
  const std::vector<T> expected = reference(inputs, dtype, c);
  for (std::size_t r = 0; r < parts; ++r) {
    const Chunk chunk =
        c.scattered ? Chunk{r * c.count, c.count} : chunk_of(c.count, c.world_size, static_cast<int>(r), dtype);
    const auto begin = expected.begin() + static_cast<std::ptrdiff_t>(chunk.begin);
    const std::vector<T> part(begin, begin + static_cast<std::ptrdiff_t>(chunk.count));
    CHECK_EQUAL((c.scattered ? outputs : sources)[r].consumed() == bytes_of(c.scattered ? part : expected), true);
    if (c.scattered) CHECK_EQUAL(sources[r].consumed() == bytes_of(inputs[r]), true);  // the input is left alone
    if (c.combination.squares != nullptr) check_squares(squares[r], expected, chunk);
  }
}

void equals_the_reference(Ranks& ranks, DType dtype, const Case& c, bool not_finite) {
  std::cout << c.world_size << " ranks, " << c.count << " x " << name(dtype) << ", pieces of " << c.piece_bytes
            << (c.algorithm == Algorithm::kRing ? ", ring" : ", direct") << (c.scattered ? ", scattered" : "")
            << std::endl;
  switch (dtype) {
    case DType::kFloat64:
      return equals_the_reference<double>(ranks, dtype, c, not_finite);
    case DType::kBFloat16:
      return equals_the_reference<BFloat16>(ranks, dtype, c, not_finite);
    case DType::kFloat16:
      return equals_the_reference<Float16>(ranks, dtype, c, not_finite);
    case DType::kInt64:
      return equals_the_reference<std::int64_t>(ranks, dtype, c, false);
    default:
      return equals_the_reference<float>(ranks, dtype, c, not_finite);
  }
}

Case random_case(int world_size, DType dtype) {
  static double measured;  // any address: each rank gets its own
  const bool floating = dtype != DType::kInt64;
  Case c{world_size,   0, 16 * (1 + draw(20)), draw(3), draw(2) == 0 ? Algorithm::kRing : Algorithm::kDirect,
         draw(2) == 0, {}};
  const std::size_t sizes[] = {draw(4), 5 + draw(40), 100 + draw(400)};
  c.count = sizes[draw(3)];
  const std::size_t kind = draw(floating ? 6 : 4);
  if (kind < 4) c.combination.op = static_cast<Accumulation>(kind);
  c.combination.mean = kind == 4;
  if (kind == 5) c.combination.factor = 0.3;
  const bool sum = c.combination.op == Accumulation::kSum;
  c.combination.squares = floating && sum && draw(2) == 0 ? &measured : nullptr;
  return c;
}

void configure(StreamOrder order) {
  emulation::Config config;
  config.streams = order;
  config.seed = random_numbers();
  emulation::configure(config);
}

// The next transfer is given to the comm stream while an addition is still to be done: that is the overlap.
void transfers_do_not_wait_for_the_addition_before() {
  configure(StreamOrder::kPreferred);
  stand_in::reset();
  Ranks ranks(2);
  Case c{2, 64, 64, 0, Algorithm::kRing, false, {}};
  equals_the_reference(ranks, DType::kFloat32, c, false);
  // 2 chunks of 32 floats in pieces of 16: two exchanges on the way down, one on the way up.
  const std::vector<std::string> expected{"{", "Send", "Recv", "}", "{", "Send", "Recv", "}", "{", "Send", "Recv", "}"};
  CHECK_EQUAL(stand_in::calls(0) == expected, true);
}

void mistakes_are_refused() {
  Ranks ranks(1);
  const Operand none{nullptr, nullptr, 0, DType::kFloat32};
  double squares;
  for (const Combination& wrong :
       {Combination{Accumulation::kMax, true}, Combination{Accumulation::kProduct, false, 2.0},
        Combination{Accumulation::kMin, false, {}, &squares}})
    CHECK_THROWS(all_reduce(ranks[0], Algorithm::kRing, none, wrong, ranks.stream(0)), InvalidArgument);
}

// Scratch memory cannot be had in a capture; what a graph uses is not freed before the communicator ends.
void scratch_memory_outlives_graphs() {
  Ranks ranks(1);
  Tensor tensor(4096);
  const Operand operand{tensor.data(), tensor.data(), 1024, DType::kFloat32};
  const auto capture = [&] {
    check_cuda(cudaStreamBeginCapture(ranks.stream(0), cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
    try {
      all_reduce(ranks[0], Algorithm::kRing, operand, {}, ranks.stream(0))->wait(ranks.stream(0));
    } catch (...) {
      cudaGraph_t graph;
      if (cudaStreamEndCapture(ranks.stream(0), &graph) == cudaSuccess) cudaGraphDestroy(graph);
      throw;
    }
    cudaGraph_t graph;
    check_cuda(cudaStreamEndCapture(ranks.stream(0), &graph), "cudaStreamEndCapture");
    return graph;
  };
  synchronize();
  CHECK_THROWS(capture(), InvalidArgument);
  all_reduce(ranks[0], Algorithm::kRing, operand, {}, ranks.stream(0))->wait(ranks.stream(0));
  check_cuda(cudaGraphDestroy(capture()), "cudaGraphDestroy");
  synchronize();
}

}  // namespace

int main() {
  random_numbers = fresh_random();
  constexpr DType kDTypes[] = {DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kFloat16, DType::kInt64};
  const int repeats = emulation::kTsan ? 1 : 4;
  for (int world_size = 1; world_size <= 4; ++world_size) {
    configure(StreamOrder::kRandom);
    Ranks ranks(world_size);
    for (int repeat = 0; repeat < repeats; ++repeat)
      for (DType dtype : kDTypes) equals_the_reference(ranks, dtype, random_case(world_size, dtype), draw(3) == 0);
  }
  configure(StreamOrder::kHostThreads);
  for (int world_size = 2; world_size <= 4; ++world_size) {
    Ranks ranks(world_size);
    equals_the_reference(ranks, DType::kFloat32, random_case(world_size, DType::kFloat32), false);
  }
  transfers_do_not_wait_for_the_addition_before();
  mistakes_are_refused();
  scratch_memory_outlives_graphs();
  emulation::configure({});
}
