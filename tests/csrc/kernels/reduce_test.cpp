// Sum of squares on the CPU: against float64, the same bits for any number of threads, and a flag for the elements
// only.
#include "kernels/reduce.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include "check.hpp"
#include "core/error.hpp"

using namespace pyparallel;

namespace {

double flag_of(std::vector<float> values) {
  const ReduceItem item{values.data(), static_cast<std::int64_t>(values.size())};
  double result[2];
  sum_of_squares_cpu(&item, 1, DType::kFloat32, result, 2);
  return result[1];
}

void equals_the_reference(std::mt19937_64& random) {
  std::normal_distribution<float> normal;
  std::vector<std::vector<float>> tensors;
  std::vector<ReduceItem> items;
  double expected = 0;
  for (std::size_t size : {0, 1, 17, 4096, 200003, 0}) {
    tensors.emplace_back(size);
    for (float& value : tensors.back()) {
      value = normal(random);
      expected += static_cast<double>(value) * value;
    }
  }
  for (auto& tensor : tensors) items.push_back({tensor.data(), static_cast<std::int64_t>(tensor.size())});
  double first[2], other[2];
  sum_of_squares_cpu(items.data(), static_cast<std::int64_t>(items.size()), DType::kFloat32, first, 1);
  CHECK_CLOSE(first[0], expected, 1e-12 * expected);
  CHECK_EQUAL(first[1], 0.0);
  for (int threads : {2, 3, 7}) {
    sum_of_squares_cpu(items.data(), static_cast<std::int64_t>(items.size()), DType::kFloat32, other, threads);
    CHECK_EQUAL(other[0], first[0]);
  }
}

}  // namespace

int main() {
  std::mt19937_64 random = fresh_random();
  equals_the_reference(random);
  for (float bad : {INFINITY, -INFINITY, NAN})
    for (std::size_t place : {0, 15, 16, 999}) {
      std::vector<float> values(1000, 1.0f);
      values[place] = bad;
      CHECK_EQUAL(flag_of(values), 1.0);
    }
  CHECK_EQUAL(flag_of(std::vector<float>(1000, std::numeric_limits<float>::max())), 0.0);
  CHECK_EQUAL(flag_of({}), 0.0);
  double result[2];
  const ReduceItem null{nullptr, 5};
  CHECK_THROWS(sum_of_squares_cpu(&null, 1, DType::kFloat32, result, 1), InvalidArgument);
}
