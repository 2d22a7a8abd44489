// How a pool decides, without memory behind it: what replays compare.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace pyparallel::memory {

// What a policy calls a block of its own until that is freed.
using Handle = std::uintptr_t;

class Policy {
 public:
  virtual ~Policy() = default;
  // False if the device is too small, after everything that the policy does then.
  virtual bool allocate(std::uint64_t num_bytes, std::uint64_t stream, Handle* block) = 0;
  virtual void free(Handle block) = 0;
  virtual std::uint64_t reserved() const = 0;
  virtual std::uint64_t growths() const = 0;  // times it took memory from the device
};

// "pyparallel": our pool over pages that are mapped into a reserved range, as "cuda-vmm" and "host" do it
// "pyparallel-segments": our pool where memory cannot grow at its end, as "cuda" and "pinned"
// "torch", "torch-expandable": torch_policy.hpp
// "rmm": rmm_policy.hpp; "rmm-arena": rmm_arena_policy.hpp
const std::vector<std::string>& policy_names();

// `device`: bytes that the device has. Throws InvalidArgument for other names.
std::unique_ptr<Policy> make_policy(const std::string& name, std::uint64_t device);

}  // namespace pyparallel::memory
