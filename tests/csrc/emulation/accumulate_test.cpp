// Accumulate under emulation: the same bytes as on the CPU, for all dtypes, operations, sizes and alignments, in place
// and apart, in every order; and its sum of squares.
#include "kernels/accumulate.hpp"

#include "core/error.hpp"
#include "tensors.hpp"

using namespace pyparallel;

namespace {

constexpr Accumulation kOps[] = {Accumulation::kSum, Accumulation::kProduct, Accumulation::kMax, Accumulation::kMin};

// How far from a 16-byte boundary the arrays start: all alike, or each as it comes.
enum class Phase { kZero, kShared, kAny };
constexpr Phase kPhases[] = {Phase::kZero, Phase::kShared, Phase::kAny};

struct Operands {
  DType dtype;
  std::size_t shared_shift;
  TwinTensor apart;
  std::vector<TwinTensor> sources;
  std::vector<double> factors;

  Operands(DType dtype_, int count, std::size_t numel, Phase phase, std::mt19937_64& random)
      : dtype(dtype_), shared_shift(phase == Phase::kZero ? 0 : random() % 9), apart(dtype_, numel, shared_shift) {
    for (int s = 0; s < count; ++s) {
      TwinTensor& source = sources.emplace_back(dtype, numel, phase == Phase::kAny ? random() % 9 : shared_shift);
      is_floating(dtype) ? source.fill_normal(random) : source.fill_bits(random);
      factors.push_back(std::uniform_real_distribution<double>(-2, 2)(random));
    }
  }

  TwinTensor& output(bool in_place) { return in_place ? sources[sources.size() / 2] : apart; }

  // Runs on both sides; the CPU's sum of squares is the reference of the device's.
  void run(Accumulation op, bool in_place, bool multiply, double* squares, SquaresPartial* partials,
           cudaStream_t stream) {
    std::vector<const void*> host, device;
    for (const TwinTensor& source : sources) host.push_back(source.host.data()), device.push_back(source.device.data());
    AccumulateCall call{
        output(in_place).host.data(), host.data(), static_cast<int>(host.size()), apart.numel(), dtype, op};
    if (multiply) call.factors = factors.data(), call.scale = 0.3;
    accumulate_cpu(call, squares, 1);
    call.output = output(in_place).device.data();
    call.sources = device.data();
    accumulate_cuda(call, partials, 0, stream);
  }
};

void equals_the_cpu(DType dtype, int sources, std::size_t numel, Phase phase, Accumulation op,
                    std::mt19937_64& random) {
  const bool in_place = random() % 2 == 0, multiply = is_floating(dtype) && random() % 2 == 0;
  Operands operands(dtype, sources, numel, phase, random);
  operands.run(op, in_place, multiply, nullptr, nullptr, nullptr);
  synchronize();
  operands.output(in_place).check_twins("output");
  for (const TwinTensor& source : operands.sources) source.check_twins("source");
}

void all_dtypes(std::mt19937_64& random) {
  const auto all_of = [&](DType dtype) {
    for (Accumulation op : kOps)
      for (Phase phase : kPhases)
        for (std::size_t numel : {0, 1, 15, 17, 2049, 5003}) equals_the_cpu(dtype, 2, numel, phase, op, random);
    for (int sources : {1, 3, 5, kMaxSources})
      equals_the_cpu(dtype, sources, 333, kPhases[random() % 3], kOps[random() % 4], random);
  };
  for (DType dtype : kFloatingTypes) all_of(dtype);
  for (DType dtype : kIntegerTypes) all_of(dtype);
}

// Many chunks, so that blocks reach the loop that keeps several accesses in flight.
void large_arrays(std::mt19937_64& random) {
  const std::size_t numel = emulation::kTsan ? 40'001 : 700'001;
  for (DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kUInt8})
    for (Phase phase : kPhases) equals_the_cpu(dtype, 2, numel, phase, Accumulation::kSum, random);
}

void nan_wins() {
  for (DType dtype : kFloatingTypes)
    for (Accumulation op : {Accumulation::kMax, Accumulation::kMin})
      for (std::size_t place : {0, 1, 2}) {
        std::mt19937_64 random(place);
        Operands operands(dtype, 3, 1, Phase::kZero, random);
        write_element(operands.sources[place].host.data(), dtype, 0, NAN);
        operands.sources[place].device.upload(operands.sources[place].host);
        operands.run(op, false, false, nullptr, nullptr, nullptr);
        synchronize();
        const Bytes result = operands.apart.device.download();
        CHECK_EQUAL(std::isnan(read_element(result.data(), dtype, 0)), true);
      }
}

// Two pieces of a ring: each call has partials of its own, and one launch adds them all to what was there.
void squares_are_those_of_the_result(std::mt19937_64& random) {
  for (DType dtype : kFloatingTypes)
    for (Phase phase : kPhases) {
      Operands first(dtype, 2, 5003, phase, random), second(dtype, 2, 33, phase, random);
      const std::int64_t of_first = accumulate_partials(5003), of_second = accumulate_partials(33);
      DeviceArray<SquaresPartial> partials(static_cast<std::size_t>(of_first + of_second));
      DeviceArray<double> result(std::vector<double>{0.5, 0.0});
      double expected[2] = {0.5, 0.0};
      first.run(Accumulation::kSum, true, true, expected, partials.data(), nullptr);
      second.run(Accumulation::kSum, true, true, expected, partials.data() + of_first, nullptr);
      add_partials_cuda(partials.data(), of_first + of_second, result.data(), 0, nullptr);
      synchronize();
      first.output(true).check_twins("output");
      CHECK_CLOSE(result.download()[0] / expected[0], 1.0, 8 * 6e-8);
      CHECK_EQUAL(result.download()[1], 0.0);
    }
}

void squares_repeat_to_the_bit(std::mt19937_64& random) {
  const std::uint64_t values = random();
  double first = 0.0;
  in_every_order(random, [&] {
    emulation::Config config = emulation::config();
    config.max_block_threads = 64;  // part of the order of summation
    emulation::configure(config);
    std::mt19937_64 same(values);
    Operands operands(DType::kBFloat16, 2, 9001, Phase::kShared, same);
    DeviceArray<SquaresPartial> partials(static_cast<std::size_t>(accumulate_partials(9001)));
    DeviceArray<double> result(std::vector<double>{0.0, 0.0});
    operands.run(Accumulation::kSum, false, false, nullptr, partials.data(), nullptr);
    add_partials_cuda(partials.data(), accumulate_partials(9001), result.data(), 0, nullptr);
    synchronize();
    if (first == 0.0) first = result.download()[0];
    CHECK_EQUAL(result.download()[0], first);
  });
}

// The flag rises for the result's elements, also where finite ones overflow, and never falls again.
void the_flag_speaks_of_the_result(std::mt19937_64& random) {
  for (double bad : {double{INFINITY}, double{NAN}, 60000.0})
    for (std::size_t place : {0, 31, 32, 4999}) {
      Operands operands(DType::kFloat16, 2, 5000, Phase::kAny, random);
      for (TwinTensor& source : operands.sources) {
        write_element(source.host.data(), DType::kFloat16, place, bad);
        source.device.upload(source.host);
      }
      DeviceArray<SquaresPartial> partials(static_cast<std::size_t>(accumulate_partials(5000)));
      DeviceArray<double> result(std::vector<double>{0.0, 0.0});
      operands.run(Accumulation::kSum, false, false, nullptr, partials.data(), nullptr);
      add_partials_cuda(partials.data(), accumulate_partials(5000), result.data(), 0, nullptr);
      add_partials_cuda(nullptr, 0, result.data(), 0, nullptr);
      synchronize();
      CHECK_EQUAL(result.download()[1], 1.0);
    }
}

// A ring on each stream: three additions into the same buffer, ordered by the stream alone; then the same as a graph.
void streams_are_independent(std::mt19937_64& random) {
  std::vector<TestStream> streams(3);
  std::vector<Operands> rings;
  for (std::size_t s = 0; s < streams.size(); ++s) rings.emplace_back(DType::kFloat32, 2, 5003, Phase::kShared, random);
  for (int hop = 0; hop < 3; ++hop)
    for (std::size_t s = 0; s < streams.size(); ++s)
      rings[s].run(Accumulation::kSum, true, true, nullptr, nullptr, streams[s]);
  synchronize();
  for (Operands& ring : rings) ring.output(true).check_twins("output");
}

void may_be_captured(std::mt19937_64& random) {
  const TestStream stream;
  Operands operands(DType::kFloat32, 2, 5003, Phase::kZero, random);
  DeviceArray<SquaresPartial> partials(static_cast<std::size_t>(accumulate_partials(5003)));
  DeviceArray<double> result(std::vector<double>{0.0, 0.0});
  double expected[2] = {0.0, 0.0};
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
  operands.run(Accumulation::kSum, false, true, expected, partials.data(), stream);
  add_partials_cuda(partials.data(), accumulate_partials(5003), result.data(), 0, stream);
  check_cuda(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  check_cuda(cudaGraphInstantiate(&exec, graph, 0), "cudaGraphInstantiate");
  for (int launch = 0; launch < 2; ++launch) check_cuda(cudaGraphLaunch(exec, stream), "cudaGraphLaunch");
  synchronize();
  operands.apart.check_twins("output");
  CHECK_CLOSE(result.download()[0] / (2 * expected[0]), 1.0, 8 * 6e-8);
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
}

void refuses_what_it_cannot_combine() {
  float value = 0;
  const void* source = nullptr;
  SquaresPartial partial;
  AccumulateCall call{&value, &source, 1, 4, DType::kFloat32};
  CHECK_THROWS(accumulate_cuda(call, nullptr, 0, nullptr), InvalidArgument);
  source = &value;
  CHECK_THROWS(accumulate_cuda(call, nullptr, emulation::kDeviceCount, nullptr), CudaError);
  call.op = Accumulation::kMin;
  CHECK_THROWS(accumulate_cuda(call, &partial, 0, nullptr), InvalidArgument);
  CHECK_THROWS(add_partials_cuda(nullptr, 1, &partial.sum, 0, nullptr), InvalidArgument);
}

}  // namespace

int main() {
  std::mt19937_64 random = fresh_random();
  in_every_order(random, [&] {
    all_dtypes(random);
    squares_are_those_of_the_result(random);
    streams_are_independent(random);
  });
  large_arrays(random);
  nan_wins();
  squares_repeat_to_the_bit(random);
  the_flag_speaks_of_the_result(random);
  may_be_captured(random);
  refuses_what_it_cannot_combine();
}
