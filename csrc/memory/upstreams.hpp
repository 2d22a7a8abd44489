// Upstreams by name.
#pragma once
#include <memory>
#include <string>

#include "memory/upstream.hpp"

namespace pyparallel::memory {

// "host", "shared", and in CUDA builds "pinned", "cuda", "cuda-vmm". `device`: whose memory or streams, where it
// matters. Throws InvalidArgument for other names, and says so of those that this build lacks.
std::unique_ptr<Upstream> make_upstream(const std::string& name, int device);

}  // namespace pyparallel::memory
