// NCCL's C interface as far as it is used here, and the library that provides it, opened at run time.
//
// Declarations follow nccl.h (https://github.com/NVIDIA/nccl/blob/master/src/nccl.h.in); the numbers are part of NCCL's
// binary interface. Semantics are those of https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/api.html.
#pragma once
#include <climits>
#include <cstddef>
#include <string>
#include <vector>

struct CUstream_st;
struct ncclComm;

namespace pyparallel::nccl {

using Stream = CUstream_st*;  // a cudaStream_t
using Comm = ::ncclComm*;

enum class Result : int {
  kSuccess = 0,
  kUnhandledCudaError = 1,
  kSystemError = 2,
  kInternalError = 3,
  kInvalidArgument = 4,
  kInvalidUsage = 5,
  kRemoteError = 6,  // since 2.13: a peer has ended, or the network failed
  kInProgress = 7,   // since 2.14: a non-blocking communicator is not through with its last call
};

enum class DataType : int {
  kInt8 = 0,
  kUint8 = 1,
  kInt32 = 2,
  kInt64 = 4,
  kFloat16 = 6,
  kFloat32 = 7,
  kFloat64 = 8,
  kBfloat16 = 9,  // since 2.10
};

enum class RedOp : int { kSum = 0, kProd = 1, kMax = 2, kMin = 3, kAvg = 4 /* since 2.10 */ };

struct UniqueId {
  char internal[128];
};

// ncclConfig_t as of 2.14. Later libraries read `size` bytes and take their defaults for what came after `version`.
struct Config {
  std::size_t size = sizeof(Config);
  unsigned magic = 0xcafebeef;
  unsigned version = 21400;
  int blocking = 0;
  int unset = INT_MIN;  // where later versions keep their next field: NCCL_CONFIG_UNDEF_INT
};

inline constexpr int kScalarHostImmediate = 1;  // the scalar is read before ncclRedOpCreatePreMulSum returns
inline constexpr int kNoColor = -1;             // NCCL_SPLIT_NOCOLOR
inline constexpr int kMinimumVersion = 2700;    // send and receive; 2.7.0, coded as ncclGetVersion does up to 2.8

struct Library {
  std::string path;  // as it was opened
  int version = 0;   // major * 10000 + minor * 100 + patch since 2.9

  Result (*GetVersion)(int* version);
  Result (*GetUniqueId)(UniqueId* id);
  const char* (*GetErrorString)(Result result);
  Result (*CommInitRank)(Comm* comm, int world_size, UniqueId id, int rank);
  Result (*CommDestroy)(Comm comm);
  Result (*CommAbort)(Comm comm);
  Result (*CommGetAsyncError)(Comm comm, Result* error);
  Result (*CommCount)(Comm comm, int* world_size);
  Result (*CommUserRank)(Comm comm, int* rank);
  Result (*AllReduce)(const void* input, void* output, std::size_t count, DataType, RedOp, Comm, Stream);
  Result (*Reduce)(const void* input, void* output, std::size_t count, DataType, RedOp, int root, Comm, Stream);
  Result (*ReduceScatter)(const void* input, void* output, std::size_t count, DataType, RedOp, Comm, Stream);
  Result (*AllGather)(const void* input, void* output, std::size_t count, DataType, Comm, Stream);
  Result (*Broadcast)(const void* input, void* output, std::size_t count, DataType, int root, Comm, Stream);
  Result (*Send)(const void* input, std::size_t count, DataType, int peer, Comm, Stream);
  Result (*Recv)(void* output, std::size_t count, DataType, int peer, Comm, Stream);
  Result (*GroupStart)();
  Result (*GroupEnd)();
  // Null where the library is older.
  Result (*CommInitRankConfig)(Comm* comm, int world_size, UniqueId id, int rank, Config* config);  // 2.14
  Result (*CommFinalize)(Comm comm);                                                                // 2.14
  Result (*CommSplit)(Comm comm, int color, int key, Comm* part, Config* config);                   // 2.18
  const char* (*GetLastError)(Comm comm);                                                           // 2.13
  Result (*RedOpCreatePreMulSum)(RedOp* op, void* scalar, DataType, int residence, Comm comm);      // 2.11
  Result (*RedOpDestroy)(RedOp op, Comm comm);                                                      // 2.11
};

// Opens the first of: `override` alone if it is not empty; the libnccl.so.2 that the process has loaded already;
// `candidates` in their order; the system's. Throws NcclError with everything that was tried.
Library open_library(const std::string& override, const std::vector<std::string>& candidates);

}  // namespace pyparallel::nccl
