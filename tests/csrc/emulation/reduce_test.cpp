// Sum of squares under emulation: against long double, the same bits for every order, alignment and size of block.
#include "kernels/reduce.hpp"

#include <limits>

#include "core/error.hpp"
#include "tensors.hpp"

using namespace pyparallel;

namespace {

struct Result {
  double sum, not_finite;
};

struct List {
  DType dtype;
  std::vector<TwinTensor> tensors;

  // The same values for every `shifts`; only the addresses differ.
  List(DType dtype_, const std::vector<std::size_t>& sizes, double deviation, std::uint64_t values,
       std::mt19937_64* shifts)
      : dtype(dtype_) {
    std::mt19937_64 random(values);
    for (std::size_t size : sizes) {
      tensors.emplace_back(dtype, size, shifts == nullptr ? 0 : (*shifts)() % 9);
      tensors.back().fill_normal(random, deviation);
    }
  }

  std::vector<ReduceItem> device_items() const {
    std::vector<ReduceItem> items;
    for (const TwinTensor& tensor : tensors) items.push_back({tensor.device.data(), tensor.numel()});
    return items;
  }

  std::vector<ReduceItem> host_items() const {
    std::vector<ReduceItem> items;
    for (const TwinTensor& tensor : tensors) items.push_back({tensor.host.data(), tensor.numel()});
    return items;
  }

  long double reference() const {
    long double sum = 0;
    for (const TwinTensor& tensor : tensors)
      for (std::size_t i = 0; i < static_cast<std::size_t>(tensor.numel()); ++i) {
        const long double value = read_element(tensor.host.data(), dtype, i);
        sum += value * value;
      }
    return sum;
  }

  void set(std::size_t tensor, std::size_t element, double value) {
    write_element(tensors[tensor].host.data(), dtype, element, value);
    tensors[tensor].device.upload(tensors[tensor].host);
  }
};

Result sum_of(const List& list, cudaStream_t stream = nullptr) {
  const std::vector<ReduceItem> items = list.device_items();
  const auto count = static_cast<std::int64_t>(items.size());
  const DeviceArray<unsigned char> workspace(static_cast<std::size_t>(sum_of_squares_workspace(items.data(), count)));
  const DeviceArray<double> result(2);
  sum_of_squares_cuda(items.data(), count, list.dtype, result.data(), workspace.data(), 0, stream);
  synchronize();
  const std::vector<double> values = result.download();
  return {values[0], values[1]};
}

// Float rounds at most eight terms before double takes over.
constexpr double kTolerance = 8 * 6e-8;

double deviation_of(DType dtype, int magnitude) {
  constexpr double kHalf[] = {1.0, 1e-6, 1e4}, kFloat[] = {1.0, 1e-30, 1e30}, kDouble[] = {1.0, 1e-120, 1e120};
  return (dtype == DType::kFloat16 ? kHalf : dtype == DType::kFloat64 ? kDouble : kFloat)[magnitude];
}

// Ordinary values, and such whose squares under- or overflow float.
void equals_the_reference(const std::vector<std::size_t>& sizes, std::initializer_list<int> magnitudes,
                          std::mt19937_64& random) {
  for (DType dtype : kFloatingTypes)
    for (int magnitude : magnitudes) {
      const std::uint64_t values = random();
      const List wide(dtype, sizes, deviation_of(dtype, magnitude), values, nullptr);
      const List shifted(dtype, sizes, deviation_of(dtype, magnitude), values, &random);
      const Result result = sum_of(wide), other = sum_of(shifted);
      const double expected = static_cast<double>(wide.reference());
      CHECK_CLOSE(result.sum / (expected == 0 ? 1 : expected), expected == 0 ? 0.0 : 1.0, kTolerance);
      CHECK_EQUAL(other.sum, result.sum);
      CHECK_EQUAL(result.not_finite + other.not_finite, 0.0);
      double on_cpu[2];
      const std::vector<ReduceItem> items = wide.host_items();
      sum_of_squares_cpu(items.data(), static_cast<std::int64_t>(items.size()), dtype, on_cpu, 1);
      CHECK_CLOSE(result.sum / (expected == 0 ? 1 : expected), on_cpu[0] / (expected == 0 ? 1 : expected), kTolerance);
    }
}

// The bits of one list under every order; `threads` is part of the order of summation, so it is the same for all.
void orders_do_not_change_a_bit(std::mt19937_64& random) {
  const std::uint64_t values = random();
  double first = 0;
  std::mt19937_64 shifts(random());
  in_every_order(random, [&] {
    emulation::Config config = emulation::config();
    config.max_block_threads = 64;
    emulation::configure(config);
    const List list(DType::kFloat32, kEdgeSizes, 1.0, values, &shifts);
    const Result result = sum_of(list);
    if (first == 0) first = result.sum;
    CHECK_EQUAL(result.sum, first);
  });
}

void finds_what_is_not_finite(std::mt19937_64& random) {
  const std::vector<std::size_t> sizes = {0, 17, 5003, 0};
  for (DType dtype : kFloatingTypes)
    for (double bad : {double{INFINITY}, double{-INFINITY}, double{NAN}})
      for (std::size_t place : {std::size_t{0}, std::size_t{5002}, static_cast<std::size_t>(random() % 5003)}) {
        List list(dtype, sizes, 1.0, random(), &random);
        list.set(2, place, bad);
        const Result result = sum_of(list);
        CHECK_EQUAL(result.not_finite, 1.0);
        CHECK_EQUAL(std::isfinite(result.sum), false);
      }
}

// Squares that even double cannot hold are no fault of the elements.
void an_infinite_sum_of_finite_elements_is_no_flag() {
  List list(DType::kFloat64, {100}, 1.0, 1, nullptr);
  list.set(0, 99, 1e200);
  const Result result = sum_of(list);
  CHECK_EQUAL(result.sum, double{INFINITY});
  CHECK_EQUAL(result.not_finite, 0.0);
}

void nothing_sums_to_zero() {
  for (const std::vector<std::size_t>& sizes : {std::vector<std::size_t>{}, std::vector<std::size_t>{0, 0}}) {
    const Result result = sum_of(List(DType::kFloat32, sizes, 1.0, 1, nullptr));
    CHECK_EQUAL(result.sum, 0.0);
    CHECK_EQUAL(result.not_finite, 0.0);
  }
}

// One workspace and one result per stream; the sums must not meet.
void streams_are_independent(std::mt19937_64& random) {
  constexpr std::size_t kStreams = 3;
  const std::vector<TestStream> streams(kStreams);
  std::vector<List> lists;
  std::vector<DeviceArray<unsigned char>> workspaces;
  std::vector<DeviceArray<double>> results;
  for (std::size_t s = 0; s < kStreams; ++s) {
    lists.emplace_back(DType::kFloat32, kEdgeSizes, 1.0, random(), &random);
    const std::vector<ReduceItem> items = lists[s].device_items();
    const auto count = static_cast<std::int64_t>(items.size());
    workspaces.emplace_back(static_cast<std::size_t>(sum_of_squares_workspace(items.data(), count)));
    results.emplace_back(2);
    sum_of_squares_cuda(items.data(), count, DType::kFloat32, results[s].data(), workspaces[s].data(), 0, streams[s]);
  }
  synchronize();
  for (std::size_t s = 0; s < kStreams; ++s)
    CHECK_CLOSE(results[s].download()[0] / static_cast<double>(lists[s].reference()), 1.0, kTolerance);
}

void refuses_what_it_cannot_sum() {
  double result[2];
  ReduceItem item{nullptr, 5};
  CHECK_THROWS(sum_of_squares_workspace(&item, 1), InvalidArgument);
  item.tensor = result;
  CHECK_THROWS(sum_of_squares_cuda(&item, 1, DType::kInt64, result, result, 0, nullptr), InvalidArgument);
}

}  // namespace

int main() {
  std::mt19937_64 random = fresh_random();
  in_every_order(random, [&] {
    equals_the_reference(kEdgeSizes, {0, 1, 2}, random);
    streams_are_independent(random);
  });
  equals_the_reference({emulation::kTsan ? std::size_t{20'011} : std::size_t{300'011}}, {0}, random);
  without_guard();
  equals_the_reference(many_sizes(3400, random), {0}, random);
  emulation::configure({});
  orders_do_not_change_a_bit(random);
  finds_what_is_not_finite(random);
  an_infinite_sum_of_finite_elements_is_no_flag();
  nothing_sums_to_zero();
  refuses_what_it_cannot_sum();
}
