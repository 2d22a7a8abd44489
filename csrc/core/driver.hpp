// Functions of the CUDA driver, found through the runtime at first use: nothing links libcuda, so that the same file
// loads where there is no driver.
#pragma once
#include <cuda.h>

#include <string>

namespace pyparallel {

struct Driver {
  decltype(&cuGetErrorName) get_error_name;
  decltype(&cuMemGetAllocationGranularity) mem_get_allocation_granularity;
  decltype(&cuMemAddressReserve) mem_address_reserve;
  decltype(&cuMemAddressFree) mem_address_free;
  decltype(&cuMemCreate) mem_create;
  decltype(&cuMemRelease) mem_release;
  decltype(&cuMemMap) mem_map;
  decltype(&cuMemUnmap) mem_unmap;
  decltype(&cuMemSetAccess) mem_set_access;
};

// Throws CudaError naming the function that the driver lacks.
const Driver& driver();

// Throws CudaError naming `operation` unless `code` is success.
void check_driver(CUresult code, const char* operation);

}  // namespace pyparallel
