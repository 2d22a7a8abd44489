// A block as a DLPack tensor: one dimension of bytes, which its consumer views as it likes.
//
// The structures are those of the DLPack standard (dmlc/dlpack, include/dlpack/dlpack.h, version 1.0): `Managed` is its
// DLManagedTensor, `ManagedVersioned` its DLManagedTensorVersioned.
#pragma once
#include <cstdint>
#include <functional>

namespace pyparallel::memory::dlpack {

struct Device {
  std::int32_t type;  // 1: CPU, 2: CUDA
  std::int32_t index;
};

struct DataType {
  std::uint8_t code;  // 1: unsigned integer
  std::uint8_t bits;
  std::uint16_t lanes;
};

struct Tensor {
  void* data;
  Device device;
  std::int32_t dimensions;
  DataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements
  std::uint64_t byte_offset;
};

struct Managed {
  Tensor tensor;
  void* manager;
  void (*deleter)(Managed* self);
};

struct ManagedVersioned {
  std::uint32_t major, minor;
  void* manager;
  void (*deleter)(ManagedVersioned* self);
  std::uint64_t flags;  // bit 0: read only, bit 1: a copy
  Tensor tensor;
};

// `dropped` is called once, by any thread, when the consumer lets go. It must not throw.
Managed* make(void* data, std::uint64_t num_bytes, Device device, std::function<void()> dropped);
ManagedVersioned* make_versioned(void* data, std::uint64_t num_bytes, Device device, std::function<void()> dropped);

}  // namespace pyparallel::memory::dlpack
