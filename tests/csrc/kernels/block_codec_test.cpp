// The block codec on the CPU: codes times scale plus error is the value to the last bit, the error is at most half a
// step, what is not finite travels and is gone, and sums follow the order of the sources.
#include "kernels/block_codec.hpp"

#include <algorithm>
#include <cfloat>
#include <cstring>
#include <limits>
#include <vector>

#include "check.hpp"
#include "core/error.hpp"
#include "core/float16.hpp"

using namespace pyparallel;
using namespace pyparallel::PP_ISA;

namespace {

constexpr float kInfinite = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();
// Half a step and what dividing rounds.
constexpr double kHalf = 0.5 + 0x1p-16;

struct Encoded {
  std::vector<std::int8_t> codes;
  std::vector<float> scales, error;
};

template <class T>
Encoded encode(const std::vector<T>& values, DType dtype, std::vector<float> error, int threads = 2) {
  Encoded result;
  result.codes.assign(values.size() + 1, 99);
  result.scales.assign(static_cast<std::size_t>(codec_blocks(static_cast<std::int64_t>(values.size()))) + 1, -7.0f);
  result.error = std::move(error);
  encode_blocks_cpu({values.data(), dtype, result.error.empty() ? nullptr : result.error.data(), result.codes.data(),
                     result.scales.data(), static_cast<std::int64_t>(values.size())},
                    threads);
  CHECK_EQUAL(result.codes.back(), 99);  // nothing beyond the end
  CHECK_EQUAL(result.scales.back(), -7.0f);
  return result;
}

std::vector<float> normals(std::size_t count, double deviation, std::mt19937_64& random) {
  std::normal_distribution<double> normal(0.0, deviation);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(normal(random));
  return values;
}

// One block, element by element in double.
void check_block(const float* sum, std::size_t n, const std::int8_t* codes, float scale, const float* error) {
  float largest = 0.0f;
  bool finite = true;
  for (std::size_t i = 0; i < n; ++i) {
    largest = std::max(largest, std::abs(sum[i]));
    finite = finite && std::isfinite(sum[i]);
  }
  if (!finite) {
    CHECK_EQUAL(std::isnan(scale), true);
    for (std::size_t i = 0; i < n; ++i) CHECK_EQUAL(codes[i] == 0 && error[i] == 0.0f, true);
    return;
  }
  const double exact = static_cast<double>(largest) / 127.0;
  if (scale == 0.0f) {
    CHECK_EQUAL(exact < static_cast<double>(FLT_MIN) * (1 + 1e-6), true);
    for (std::size_t i = 0; i < n; ++i) CHECK_EQUAL(codes[i] == 0 && error[i] == sum[i], true);
    return;
  }
  CHECK_EQUAL(scale <= exact * (1 + 1e-7) && scale >= exact * (1 - 0x1p-15), true);
  for (std::size_t i = 0; i < n; ++i) {
    CHECK_EQUAL(codes[i] >= -127, true);
    CHECK_EQUAL(static_cast<double>(codes[i]) * scale + error[i], static_cast<double>(sum[i]));
    CHECK_CLOSE(error[i], 0.0, kHalf * scale);
  }
}

template <class T>
void loses_nothing(DType dtype, std::mt19937_64& random) {
  for (std::size_t count : {0, 1, 255, 256, 257, 1000, 300'001})
    for (double deviation : {1.0, 1e-6, 1e4}) {
      const std::vector<float> wide = normals(count, deviation, random);
      std::vector<float> error = normals(count, 0.01 * deviation, random);
      std::vector<T> values;
      for (float value : wide) values.push_back(from_float<T>(value));
      const Encoded result = encode(values, dtype, error);
      std::vector<float> sum(count);
      for (std::size_t i = 0; i < count; ++i) sum[i] = to_float(values[i]) + error[i];
      for (std::size_t begin = 0; begin < count; begin += kCodecBlock)
        check_block(&sum[begin], std::min<std::size_t>(kCodecBlock, count - begin), &result.codes[begin],
                    result.scales[begin / kCodecBlock], &result.error[begin]);
      const Encoded without = encode(values, dtype, {});
      const Encoded zero = encode(values, dtype, std::vector<float>(count, 0.0f), 1);
      CHECK_EQUAL(without.codes == zero.codes && without.scales == zero.scales, true);
    }
}

// Every magnitude that float has, in one block each, and all that is not finite.
void special_values(std::mt19937_64& random) {
  for (int exponent = -149; exponent <= 127; ++exponent) {
    std::vector<float> values = normals(100, std::ldexp(0.3, exponent), random);
    values[7] = std::ldexp(1.0f, exponent);
    for (float& value : values) value = std::isfinite(value) ? value : FLT_MAX;
    const Encoded result = encode(values, DType::kFloat32, std::vector<float>(100, 0.0f));
    check_block(values.data(), 100, result.codes.data(), result.scales[0], result.error.data());
  }
  for (float bad : {kInfinite, -kInfinite, kNan})
    for (std::size_t place : {0, 255, 256, 511, 599}) {
      std::vector<float> values = normals(600, 1.0, random);
      values[place] = bad;
      const Encoded result = encode(values, DType::kFloat32, std::vector<float>(600, 0.0f));
      for (std::size_t begin = 0; begin < 600; begin += kCodecBlock)
        check_block(&values[begin], std::min<std::size_t>(kCodecBlock, 600 - begin), &result.codes[begin],
                    result.scales[begin / kCodecBlock], &result.error[begin]);
      CHECK_EQUAL(std::isnan(result.scales[place / kCodecBlock]), true);
    }
  std::vector<float> huge(3, FLT_MAX);
  CHECK_EQUAL(std::isnan(encode(huge, DType::kFloat32, std::vector<float>(3, FLT_MAX)).scales[0]), true);
}

void whole_numbers_come_back(std::mt19937_64& random) {
  for (float scale : {1.0f, 0.25f, 3.0f, 0x1.8p-60f}) {
    std::vector<float> values(1000), decoded(1000);
    for (float& value : values) value = scale * static_cast<float>(static_cast<int>(random() % 255) - 127);
    for (std::size_t i = 0; i < 1000; i += kCodecBlock) values[i] = 127 * scale;
    const Encoded result = encode(values, DType::kFloat32, std::vector<float>(1000, 0.0f));
    decode_blocks_cpu({result.codes.data(), result.scales.data(), 0, 0, 1, decoded.data(), DType::kFloat32, 1000}, 1);
    CHECK_EQUAL(decoded == values, true);
    for (float error : result.error) CHECK_EQUAL(error, 0.0f);
  }
}

// What each step rounds away the next one sends: after many steps the sums differ by one error.
void nothing_is_lost_over_many_steps(std::mt19937_64& random) {
  constexpr std::size_t kCount = 700;
  std::vector<double> sent(kCount), meant(kCount);
  std::vector<float> error(kCount, 0.0f);
  for (int step = 0; step < 50; ++step) {
    const std::vector<float> values = normals(kCount, 1.0, random);
    const Encoded result = encode(values, DType::kFloat32, error);
    error = result.error;
    for (std::size_t i = 0; i < kCount; ++i) {
      meant[i] += values[i];
      sent[i] += static_cast<double>(result.codes[i]) * result.scales[i / kCodecBlock];
    }
  }
  for (std::size_t i = 0; i < kCount; ++i) CHECK_CLOSE(sent[i] + error[i], meant[i], 1e-5);
}

template <class T>
void sums_in_order(DType dtype, std::mt19937_64& random) {
  for (std::size_t count : {0, 1, 257, 70'001})
    for (int sources : {1, 2, 5})
      for (bool add : {false, true}) {
        const auto blocks = static_cast<std::size_t>(codec_blocks(static_cast<std::int64_t>(count)));
        const std::size_t stride = count + 3, scales_stride = blocks + 1;
        std::vector<std::int8_t> codes(stride * static_cast<std::size_t>(sources));
        for (std::int8_t& code : codes) code = static_cast<std::int8_t>(static_cast<int>(random() % 255) - 127);
        const std::vector<float> scales = normals(scales_stride * static_cast<std::size_t>(sources), 1.0, random);
        std::vector<T> output;
        for (float value : normals(count + 1, 1.0, random)) output.push_back(from_float<T>(value));
        const std::vector<T> before = output;
        decode_blocks_cpu({codes.data(), scales.data(), static_cast<std::int64_t>(stride),
                           static_cast<std::int64_t>(scales_stride * sizeof(float)), sources, output.data(), dtype,
                           static_cast<std::int64_t>(count), 0.3f, add},
                          2);
        for (std::size_t i = 0; i < count; ++i) {
          float sum = 0.0f;
          for (std::size_t s = 0; s < static_cast<std::size_t>(sources); ++s) {
            const float product =
                static_cast<float>(codes[s * stride + i]) * scales[s * scales_stride + i / kCodecBlock];
            sum = s == 0 ? product : sum + product;
          }
          sum *= 0.3f;
          CHECK_EQUAL(to_float(output[i]), to_float(from_float<T>(add ? to_float(before[i]) + sum : sum)));
        }
        CHECK_EQUAL(to_float(output[count]), to_float(before[count]));
      }
}

void nan_travels() {
  const std::int8_t codes[2] = {0, 1};
  const float scales[2] = {kNan, 1.0f};
  float output = 0.0f;
  decode_blocks_cpu({codes, scales, 1, 4, 2, &output, DType::kFloat32, 1}, 1);
  CHECK_EQUAL(std::isnan(output), true);
}

void refuses_what_it_cannot_code() {
  float values[4] = {}, scale = 0.0f;
  std::int8_t codes[4];
  CHECK_THROWS(encode_blocks_cpu({values, DType::kFloat64, nullptr, codes, &scale, 4}, 1), InvalidArgument);
  CHECK_THROWS(encode_blocks_cpu({nullptr, DType::kFloat32, nullptr, codes, &scale, 4}, 1), InvalidArgument);
  CHECK_THROWS(encode_blocks_cpu({values, DType::kFloat32, nullptr, codes, &scale, -4}, 1), InvalidArgument);
  encode_blocks_cpu({nullptr, DType::kFloat32, nullptr, nullptr, nullptr, 0}, 1);
  CHECK_THROWS(decode_blocks_cpu({codes, &scale, 4, 4, 1, values, DType::kInt32, 4}, 1), InvalidArgument);
  CHECK_THROWS(decode_blocks_cpu({codes, nullptr, 4, 4, 1, values, DType::kFloat32, 4}, 1), InvalidArgument);
  CHECK_THROWS(decode_blocks_cpu({codes, &scale, 4, 4, 0, values, DType::kFloat32, 4}, 1), InvalidArgument);
  CHECK_THROWS(decode_blocks_cpu({codes, &scale, 4, 3, 1, values, DType::kFloat32, 4}, 1), InvalidArgument);
}

}  // namespace

int main() {
  std::mt19937_64 random = fresh_random();
  loses_nothing<float>(DType::kFloat32, random);
  loses_nothing<BFloat16>(DType::kBFloat16, random);
  loses_nothing<Float16>(DType::kFloat16, random);
  special_values(random);
  whole_numbers_come_back(random);
  nothing_is_lost_over_many_steps(random);
  sums_in_order<float>(DType::kFloat32, random);
  sums_in_order<BFloat16>(DType::kBFloat16, random);
  sums_in_order<Float16>(DType::kFloat16, random);
  nan_travels();
  refuses_what_it_cannot_code();
}
