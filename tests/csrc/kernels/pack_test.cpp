// Pack and unpack on the CPU: each slice holds its tensor, nothing outside the slices is touched, and back it comes.
#include "kernels/pack.hpp"

#include <vector>

#include "check.hpp"
#include "core/error.hpp"
#include "core/float16.hpp"

using namespace pyparallel;
using namespace pyparallel::PP_ISA;

namespace {

const std::vector<std::int64_t> kSizes = {0, 1, 5, 512, 1000, 70001, 0};

template <typename Source, typename Target>
void there_and_back(DType source_dtype, DType target_dtype, double scale) {
  std::vector<std::vector<Source>> tensors, copies;
  std::vector<PackItem> items, back;
  std::int64_t offset = 3;  // unaligned, with gaps of 2 between the slices
  for (std::int64_t size : kSizes) {
    std::vector<Source> tensor;
    for (std::int64_t i = 0; i < size; ++i) tensor.push_back(from_float<Source>(static_cast<float>(i % 97 - 48)));
    tensors.push_back(tensor);
    copies.push_back(std::vector<Source>(tensor.size()));
    items.push_back({nullptr, offset, size});
    offset += size + 2;
  }
  back = items;
  for (std::size_t t = 0; t < items.size(); ++t) {
    items[t].tensor = tensors[t].data();
    back[t].tensor = copies[t].data();
  }
  const float untouched = -7.0f;
  std::vector<Target> flat(static_cast<std::size_t>(offset), from_float<Target>(untouched));
  const auto count = static_cast<std::int64_t>(items.size());
  pack_cpu(items.data(), count, source_dtype, flat.data(), target_dtype, scale, 3);
  std::vector<float> expected(flat.size(), untouched);
  for (std::size_t t = 0; t < items.size(); ++t)
    for (std::int64_t i = 0; i < items[t].numel; ++i)
      expected[static_cast<std::size_t>(items[t].offset + i)] =
          to_float(from_float<Target>(to_float(tensors[t][static_cast<std::size_t>(i)]) * static_cast<float>(scale)));
  for (std::size_t i = 0; i < flat.size(); ++i) CHECK_EQUAL(to_float(flat[i]), expected[i]);
  unpack_cpu(back.data(), count, source_dtype, flat.data(), target_dtype, 1.0 / scale, 2);
  for (std::size_t t = 0; t < items.size(); ++t)
    for (std::size_t i = 0; i < tensors[t].size(); ++i) CHECK_EQUAL(to_float(copies[t][i]), to_float(tensors[t][i]));
}

template <typename Source>
void to_all(DType source_dtype) {
  for (double scale : {1.0, 0.5}) {
    there_and_back<Source, float>(source_dtype, DType::kFloat32, scale);
    there_and_back<Source, double>(source_dtype, DType::kFloat64, scale);
    there_and_back<Source, BFloat16>(source_dtype, DType::kBFloat16, scale);
    there_and_back<Source, Float16>(source_dtype, DType::kFloat16, scale);
  }
}

}  // namespace

int main() {
  to_all<float>(DType::kFloat32);
  to_all<double>(DType::kFloat64);
  to_all<BFloat16>(DType::kBFloat16);
  to_all<Float16>(DType::kFloat16);
  float flat[4];
  PackItem item{nullptr, 0, 4};
  CHECK_THROWS(pack_cpu(&item, 1, DType::kFloat32, flat, DType::kFloat32, 1.0, 1), InvalidArgument);
  CHECK_THROWS(pack_cpu(&item, 1, DType::kInt32, flat, DType::kFloat32, 1.0, 1), InvalidArgument);
}
