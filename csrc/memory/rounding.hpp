// Sizes rounded up.
#pragma once
#include <cstdint>

namespace pyparallel::memory {

inline std::uint64_t round_up(std::uint64_t num_bytes, std::uint64_t multiple) {
  return (num_bytes + multiple - 1) / multiple * multiple;
}

}  // namespace pyparallel::memory
