// RMM's arena_memory_resource as a policy.
//
// As cpp/include/rmm/mr/detail/arena.hpp and cpp/src/mr/detail/arena_memory_resource_impl.cpp of RMM 26.x decide. One
// global arena is cut into superblocks. Streams have arenas of their own, for blocks of up to 1 MiB, and take
// superblocks of 1 MiB for them; larger blocks are superblocks themselves. Everything is first fit, the lowest address
// first. A stream keeps its superblocks, empty ones too, until a request fails: then all come back to the global arena,
// and it tries once more. Only there empty neighbours merge.
//
// RMM takes the whole global arena at the start, half of the free memory unless told otherwise. Here it is the device,
// and reserved() says how much of it superblocks ever reached: what the arena would have to be given. Each stream
// counts as one of its own, not as the per-thread default one, which has an arena per thread.
#pragma once
#include <map>

#include "memory/policy.hpp"

namespace pyparallel::memory {

class RmmArenaPolicy : public Policy {
 public:
  explicit RmmArenaPolicy(std::uint64_t device);
  bool allocate(std::uint64_t num_bytes, std::uint64_t stream, Handle* block) override;
  void free(Handle block) override;
  std::uint64_t reserved() const override { return reserved_; }
  std::uint64_t growths() const override { return reserved_ > 0 ? 1 : 0; }

 private:
  struct Superblock {
    std::uint64_t num_bytes;
    std::map<std::uint64_t, std::uint64_t> free;  // address to bytes
    std::uint64_t largest;                        // of those

    bool empty() const { return largest == num_bytes; }
    std::uint64_t first_fit(std::uint64_t size);
    void give(std::uint64_t address, std::uint64_t size);
    void find_largest();
  };
  using Superblocks = std::map<std::uint64_t, Superblock>;  // by address

  static Superblock whole(std::uint64_t address, std::uint64_t num_bytes);
  static Superblocks::iterator first_that_fits(Superblocks& superblocks, std::uint64_t num_bytes);
  Superblocks::iterator acquire(std::uint64_t num_bytes, Superblocks& into);
  std::uint64_t allocate_from(Superblocks& own, std::uint64_t num_bytes);
  void give_back_all();
  void merge(Superblocks::iterator superblock);

  Superblocks global_;
  std::map<std::uint64_t, Superblocks> streams_;
  std::map<std::uint64_t, std::uint64_t> live_;  // address to bytes
  std::uint64_t reserved_ = 0;
};

}  // namespace pyparallel::memory
