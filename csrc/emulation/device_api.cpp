// Devices and errors of the emulated CUDA: the limits of a Hopper with very few multiprocessors.
#include <cstring>
#include <utility>

#include "emulation/report.hpp"
#include "emulation/runtime.hpp"

namespace pyparallel::emulation {
namespace {

constinit thread_local cudaError_t last_error = cudaSuccess;

inline constexpr int kMultiprocessors = 4;
inline constexpr int kComputeCapability = 9;

inline constexpr std::pair<cudaDeviceAttr, int> kAttributes[] = {
    {cudaDevAttrMultiProcessorCount, kMultiprocessors},
    {cudaDevAttrComputeCapabilityMajor, kComputeCapability},
    {cudaDevAttrComputeCapabilityMinor, 0},
    {cudaDevAttrWarpSize, kWarpThreads},
    {cudaDevAttrMaxThreadsPerBlock, kMaxBlockThreads},
    {cudaDevAttrMaxThreadsPerMultiProcessor, 2048},
    {cudaDevAttrMaxBlockDimX, 1024},
    {cudaDevAttrMaxBlockDimY, 1024},
    {cudaDevAttrMaxBlockDimZ, 64},
    {cudaDevAttrMaxGridDimX, 0x7fffffff},
    {cudaDevAttrMaxGridDimY, 65535},
    {cudaDevAttrMaxGridDimZ, 65535},
    {cudaDevAttrMaxSharedMemoryPerBlock, static_cast<int>(kSharedBytes)},
    {cudaDevAttrMaxSharedMemoryPerBlockOptin, static_cast<int>(kSharedOptInBytes)},
    {cudaDevAttrMemoryPoolsSupported, 1},
    {cudaDevAttrUnifiedAddressing, 1},
    {cudaDevAttrCooperativeLaunch, 0},
};

struct ErrorText {
  cudaError_t code;
  const char *name, *text;
};

inline constexpr ErrorText kErrors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorIllegalState, "cudaErrorIllegalState", "the operation cannot be performed in the present state"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
    {cudaErrorStreamCaptureMerge, "cudaErrorStreamCaptureMerge", "operation would merge two captures"},
    {cudaErrorStreamCaptureUnmatched, "cudaErrorStreamCaptureUnmatched", "capture was not begun in this stream"},
    {cudaErrorStreamCaptureIsolation, "cudaErrorStreamCaptureIsolation", "dependency on an uncaptured event"},
    {cudaErrorStreamCaptureImplicit, "cudaErrorStreamCaptureImplicit",
     "operation would make the null stream depend on a capturing one"},
    {cudaErrorStreamCaptureWrongThread, "cudaErrorStreamCaptureWrongThread",
     "capture was begun by another thread, and not in relaxed mode"},
    {cudaErrorCapturedEvent, "cudaErrorCapturedEvent",
     "operation not permitted on an event last recorded in a capture"},
};

const ErrorText& text_of(cudaError_t code) {
  static constexpr ErrorText kUnknown{cudaErrorUnknown, "cudaErrorUnknown", "unknown error"};
  for (const ErrorText& error : kErrors)
    if (error.code == code) return error;
  return kUnknown;
}

bool is_device(int device) { return device >= 0 && device < kDeviceCount; }

}  // namespace

cudaError_t note(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

}  // namespace pyparallel::emulation

using namespace pyparallel::emulation;

extern "C" {

// ---- devices ----

cudaError_t cudaGetDeviceCount(int* count) {
  *count = kDeviceCount;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  if (!is_device(device)) return note(cudaErrorInvalidDevice);
  current_device = device;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr wanted, int device) {
  if (!is_device(device)) return note(cudaErrorInvalidDevice);
  for (const auto& [attribute, known] : kAttributes)
    if (attribute == wanted) return *value = known, cudaSuccess;
  return note(cudaErrorInvalidValue);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (!is_device(device)) return note(cudaErrorInvalidDevice);
  *properties = cudaDeviceProp{};
  std::strcpy(properties->name, "emulated on the CPU");
  properties->totalGlobalMem = config().device_bytes;
  properties->multiProcessorCount = kMultiprocessors;
  properties->major = kComputeCapability;
  properties->warpSize = kWarpThreads;
  properties->maxThreadsPerBlock = kMaxBlockThreads;
  properties->sharedMemPerBlock = kSharedBytes;
  properties->sharedMemPerBlockOptin = kSharedOptInBytes;
  return cudaSuccess;
}

// ---- errors ----

cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return last_error; }
const char* cudaGetErrorName(cudaError_t code) { return text_of(code).name; }
const char* cudaGetErrorString(cudaError_t code) { return text_of(code).text; }

}  // extern "C"
