// The only header through which a kernel source reaches CUDA: runtime, 16-bit floats, shared memory.
//
// Kernel sources stay within what can also be emulated on a CPU: shared memory only through these macros, float
// arithmetic over 16-bit storage, whole-warp shuffles, no inline PTX, no cub, no cooperative groups.
#pragma once
#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

// An array of `count` trivial elements, one per block.
#define GPU_SHARED(Type, name, count) __shared__ Type name[count]
// The same with the size of the launch's `shared_bytes`.
#define GPU_DYNAMIC_SHARED(Type, name)                                 \
  extern __shared__ __align__(16) unsigned char gpu_dynamic_shared_[]; \
  Type* const name = reinterpret_cast<Type*>(gpu_dynamic_shared_)

// Last in a struct of several KB that kernels take by value: keeps the emulation from copying it for every thread.
#define GPU_LARGE_ARGUMENT(Type)

// One 16-byte store. An intrinsic, because the compiler cuts a plain store of four words apart where it unrolls.
__device__ __forceinline__ void gpu_store_16(void* target, uint4 value) { __stwb(static_cast<uint4*>(target), value); }
#elif defined(PYPARALLEL_EMULATION)  // tests only: the same sources under g++, run on the CPU
#include "emulation/cuda.hpp"

#define GPU_SHARED(Type, name, count)                                                                \
  Type(&name)[count] = pyparallel::emulation::static_shared_array<Type[count]>([]() -> const void* { \
    static char key;                                                                                 \
    return &key;                                                                                     \
  }())
#define GPU_DYNAMIC_SHARED(Type, name) Type* const name = static_cast<Type*>(pyparallel::emulation::dynamic_shared())
// A destructor that does something, as far as the ABI can tell: such arguments are passed by address.
#define GPU_LARGE_ARGUMENT(Type) \
  ~Type() {}

inline void gpu_store_16(void* target, uint4 value) { *static_cast<uint4*>(target) = value; }

#else
#error "kernel sources are compiled by nvcc; host sources include core/cuda_check.hpp"
#endif
