// Whether this process is the one that made an object, or a forked child of it.
#pragma once
#include <cstdint>

namespace pyparallel {

// How many forks lie between this process and the one that asked first. One load: asked on every call of an object.
std::uint64_t fork_depth();

}  // namespace pyparallel
