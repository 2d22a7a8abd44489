// Pack: cast and scale a list of tensors into slices of one flat buffer, and back. Contract and per-element math.
#pragma once
#include <cstdint>

#include "core/dtype.hpp"
#include "core/macros.hpp"

namespace pyparallel {

// One tensor of the list and its slice: elements [offset, offset + numel) of the flat buffer. The ranges of the tensors
// must not overlap each other.
struct PackItem {
  void* tensor;         // dense, tensor_dtype; read by pack, written by unpack
  std::int64_t offset;  // in elements of the flat buffer
  std::int64_t numel;
};

// float32 in the middle for 16-bit and 32-bit floats, double when either side is float64; a double reaches 16 bits
// through float32, as in torch.
PP_HOST_DEVICE float pack_scaled(float value, float scale) { return value * scale; }
PP_HOST_DEVICE double pack_scaled(double value, double scale) { return value * scale; }

// What both loops refuse: negative sizes or offsets, null pointers with elements behind them. Throws InvalidArgument.
void check_pack_items(const PackItem* items, std::int64_t count, const void* flat);

// flat[offset + i] = cast(tensor[i] * scale). dtypes: float32, float64, bfloat16, float16 in any pair.
void pack_cpu(const PackItem* items, std::int64_t count, DType tensor_dtype, void* flat, DType flat_dtype, double scale,
              int threads);

// tensor[i] = cast(flat[offset + i] * scale).
void unpack_cpu(const PackItem* items, std::int64_t count, DType tensor_dtype, const void* flat, DType flat_dtype,
                double scale, int threads);

#if PYPARALLEL_CUDA
// The same on `device`, enqueued on `stream` (a cudaStream_t); never synchronises. Throws CudaError.
void pack_cuda(const PackItem* items, std::int64_t count, DType tensor_dtype, void* flat, DType flat_dtype,
               double scale, int device, void* stream);
void unpack_cuda(const PackItem* items, std::int64_t count, DType tensor_dtype, const void* flat, DType flat_dtype,
                 double scale, int device, void* stream);
#endif

}  // namespace pyparallel
