// The one list of upstreams there are.
#include "memory/upstreams.hpp"

#include "core/error.hpp"
#include "memory/host_upstream.hpp"
#include "memory/shared_upstream.hpp"
#if PYPARALLEL_CUDA
#include "memory/cuda_upstream.hpp"
#include "memory/cuda_vmm_upstream.hpp"
#include "memory/pinned_upstream.hpp"
#endif

namespace pyparallel::memory {

std::unique_ptr<Upstream> make_upstream(const std::string& name, int device) {
  if (name == "host") return std::make_unique<HostUpstream>();
  if (name == "shared") return std::make_unique<SharedUpstream>();
#if PYPARALLEL_CUDA
  if (name == "pinned") return std::make_unique<PinnedUpstream>(device);
  if (name == "cuda") return std::make_unique<CudaUpstream>(device);
  if (name == "cuda-vmm") return std::make_unique<CudaVmmUpstream>(device);
#else
  (void)device;
  if (name == "pinned" || name == "cuda" || name == "cuda-vmm")
    throw InvalidArgument("upstream '" + name +
                          "': this build of pyparallel has no CUDA (see pyparallel.features()): " +
                          "build it with nvcc, or take host or shared");
#endif
  throw InvalidArgument("upstream '" + name + "' is none of host, shared, pinned, cuda, cuda-vmm");
}

}  // namespace pyparallel::memory
