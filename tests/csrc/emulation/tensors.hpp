// Random tensors of any dtype, on the host and at an address of any alignment on the device.
#pragma once
#include <cstring>
#include <vector>

#include "core/dtype.hpp"
#include "core/float16.hpp"
#include "device.hpp"

namespace pyparallel {

using Bytes = std::vector<unsigned char>;

inline constexpr DType kFloatingTypes[] = {DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kFloat16};
inline constexpr DType kIntegerTypes[] = {DType::kInt32, DType::kInt64, DType::kUInt8, DType::kInt8, DType::kInt16};

inline void write_element(void* array, DType dtype, std::size_t i, double value) {
  using namespace PP_ISA;
  const float rounded = static_cast<float>(value);
  switch (dtype) {
    case DType::kFloat64:
      static_cast<double*>(array)[i] = value;
      break;
    case DType::kBFloat16:
      static_cast<BFloat16*>(array)[i] = from_float<BFloat16>(rounded);
      break;
    case DType::kFloat16:
      static_cast<Float16*>(array)[i] = from_float<Float16>(rounded);
      break;
    default:
      static_cast<float*>(array)[i] = rounded;
  }
}

inline double read_element(const void* array, DType dtype, std::size_t i) {
  using namespace PP_ISA;
  switch (dtype) {
    case DType::kFloat64:
      return static_cast<const double*>(array)[i];
    case DType::kBFloat16:
      return to_float(static_cast<const BFloat16*>(array)[i]);
    case DType::kFloat16:
      return to_float(static_cast<const Float16*>(array)[i]);
    case DType::kInt32:
      return static_cast<const std::int32_t*>(array)[i];
    case DType::kInt64:
      return static_cast<double>(static_cast<const std::int64_t*>(array)[i]);
    case DType::kUInt8:
      return static_cast<const std::uint8_t*>(array)[i];
    case DType::kInt8:
      return static_cast<const std::int8_t*>(array)[i];
    case DType::kInt16:
      return static_cast<const std::int16_t*>(array)[i];
    default:
      return static_cast<const float*>(array)[i];
  }
}

// One tensor twice: `host` for the reference, `device` for the kernel, which starts `shift` elements after a boundary
// of 256 bytes and ends where its memory ends.
struct TwinTensor {
  DType dtype;
  Bytes host;
  DeviceArray<unsigned char> device;

  TwinTensor(DType dtype_, std::size_t numel, std::size_t shift)
      : dtype(dtype_), host(numel * item_size(dtype_), 0xff), device(host.size(), shift * item_size(dtype_)) {}

  std::int64_t numel() const { return static_cast<std::int64_t>(host.size() / item_size(dtype)); }

  void fill_normal(std::mt19937_64& random, double deviation = 1.0) {
    std::normal_distribution<double> normal(0.0, deviation);
    for (std::int64_t i = 0; i < numel(); ++i)
      write_element(host.data(), dtype, static_cast<std::size_t>(i), normal(random));
    device.upload(host);
  }

  // Any bits: integers.
  void fill_bits(std::mt19937_64& random) {
    for (unsigned char& byte : host) byte = static_cast<unsigned char>(random());
    device.upload(host);
  }

  // The same bytes on both sides, and nothing written before the tensor.
  void check_twins(const char* what) const {
    const Bytes computed = device.download();
    for (std::size_t i = 0; i < computed.size(); ++i)
      if (computed[i] != host[i]) {
        const std::size_t at = i / item_size(dtype);
        std::cerr << what << ": element " << at << " of " << numel() << " " << name(dtype) << " is "
                  << read_element(computed.data(), dtype, at) << ", not " << read_element(host.data(), dtype, at)
                  << "\n";
        std::exit(1);
      }
    CHECK_EQUAL(device.front_is_untouched(), true);
  }
};

// Around the borders of vectors and chunks, with empty tensors in front, between and at the end.
inline const std::vector<std::size_t> kEdgeSizes = {0, 1, 7, 8, 9, 0, 15, 16, 17, 31, 2047, 2048, 2049, 5003, 0};

// Longer than the table of one launch: small tensors, some of them empty.
inline std::vector<std::size_t> many_sizes(std::size_t count, std::mt19937_64& random) {
  std::vector<std::size_t> sizes(count);
  for (std::size_t& size : sizes) size = random() % 4 == 0 ? 0 : random() % 23;
  return sizes;
}

}  // namespace pyparallel
