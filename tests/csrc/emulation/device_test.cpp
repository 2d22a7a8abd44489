// Devices, launches and errors under emulation: what a device refuses is refused by the same error.
#include "device.hpp"

#include "core/device_guard.hpp"

using namespace pyparallel;

namespace {

__global__ void nothing(int*) {}

cudaError_t launch_shape(dim3 grid, dim3 block, std::size_t shared_bytes = 0, cudaStream_t stream = nullptr) {
  const cudaLaunchConfig_t config{grid, block, shared_bytes, stream, nullptr, 0};
  int* const none = nullptr;
  const cudaError_t error = emulation::launch(config, "nothing", reinterpret_cast<const void*>(&nothing),
                                              emulation::BoundKernel<int*>(&nothing, none));
  CHECK_EQUAL(cudaPeekAtLastError(), error);
  CHECK_EQUAL(cudaGetLastError(), error);
  CHECK_EQUAL(cudaGetLastError(), cudaSuccess);
  synchronize();
  return error;
}

void launches_are_refused_beyond_the_limits() {
  CHECK_EQUAL(launch_shape(1, 1024), cudaSuccess);
  CHECK_EQUAL(launch_shape(1, dim3(1, 1, 64)), cudaSuccess);
  for (dim3 block : {dim3(0), dim3(1025), dim3(32, 33), dim3(1, 1, 65)})
    CHECK_EQUAL(launch_shape(1, block), cudaErrorInvalidConfiguration);
  for (dim3 grid : {dim3(0), dim3(1, 65536), dim3(1, 1, 65536), dim3(0x80000000u)})
    CHECK_EQUAL(launch_shape(grid, 32), cudaErrorInvalidConfiguration);
}

void much_shared_memory_must_be_asked_for() {
  const auto ask = [](int bytes) {
    return cudaFuncSetAttribute(reinterpret_cast<const void*>(&nothing), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                bytes);
  };
  CHECK_EQUAL(launch_shape(1, 32, 48 << 10), cudaSuccess);
  CHECK_EQUAL(launch_shape(1, 32, (48 << 10) + 1), cudaErrorInvalidValue);
  CHECK_EQUAL(ask(100 << 10), cudaSuccess);
  CHECK_EQUAL(launch_shape(1, 32, 100 << 10), cudaSuccess);
  CHECK_EQUAL(launch_shape(1, 32, (100 << 10) + 1), cudaErrorInvalidValue);
  CHECK_EQUAL(ask((227 << 10) + 1), cudaErrorInvalidValue);
  CHECK_EQUAL(cudaGetLastError(), cudaErrorInvalidValue);
}

void a_stream_belongs_to_a_device() {
  const TestStream first;
  {
    const DeviceGuard guard(1);
    int device = 0;
    check_cuda(cudaGetDevice(&device), "cudaGetDevice");
    CHECK_EQUAL(device, 1);
    const TestStream second;
    CHECK_EQUAL(launch_shape(1, 32, 0, second), cudaSuccess);
    CHECK_EQUAL(launch_shape(1, 32, 0, first), cudaErrorInvalidResourceHandle);
  }
  CHECK_EQUAL(launch_shape(1, 32, 0, first), cudaSuccess);
}

void errors_have_names() {
  CHECK_THROWS(DeviceGuard(emulation::kDeviceCount), CudaError);
  CHECK_EQUAL(cudaGetLastError(), cudaSuccess);  // check_cuda has cleared it
  try {
    check_cuda(cudaSetDevice(-1), "cudaSetDevice");
  } catch (const CudaError& error) {
    CHECK_EQUAL(std::string(error.what()) == "cudaSetDevice: invalid device ordinal (cudaErrorInvalidDevice)", true);
    CHECK_EQUAL(error.code, static_cast<int>(cudaErrorInvalidDevice));
  }
  CHECK_EQUAL(std::string(cudaGetErrorName(cudaErrorNvlinkUncorrectable)) == "cudaErrorUnknown", true);
}

void a_device_describes_itself() {
  int value = 0;
  cudaDeviceProp properties;
  check_cuda(cudaGetDeviceProperties(&properties, 1), "cudaGetDeviceProperties");
  check_cuda(cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, 1), "cudaDeviceGetAttribute");
  CHECK_EQUAL(value, properties.multiProcessorCount);
  check_cuda(cudaDeviceGetAttribute(&value, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0), "cudaDeviceGetAttribute");
  CHECK_EQUAL(static_cast<std::size_t>(value), properties.sharedMemPerBlockOptin);
  CHECK_EQUAL(cudaDeviceGetAttribute(&value, cudaDevAttrWarpSize, 2), cudaErrorInvalidDevice);
  cudaGetLastError();
}

void a_block_is_as_large_as_configured() {
  emulation::Config config;
  config.max_block_threads = 96;
  emulation::configure(config);
  CHECK_EQUAL(block_threads(256), 96);
  CHECK_EQUAL(block_threads(64), 64);
  emulation::configure({});
}

}  // namespace

int main() {
  launches_are_refused_beyond_the_limits();
  much_shared_memory_must_be_asked_for();
  a_stream_belongs_to_a_device();
  errors_have_names();
  a_device_describes_itself();
  a_block_is_as_large_as_configured();
}
