// RMM's pool_memory_resource as a policy, beginning with an empty pool.
//
// As cpp/include/rmm/mr/detail/{stream_ordered_memory_resource,coalescing_free_list}.hpp and
// cpp/src/mr/detail/pool_memory_resource_impl.cpp of RMM 26.x decide. Blocks are multiples of 256 bytes, always split,
// best fit and then lowest. A stream that has no fitting block takes one from another stream, else all of another
// stream's blocks, stream by stream; then the pool doubles. With a device of finite size that is the maximum pool size:
// the pool grows by half of what remains, and gives wholly free upstream blocks back before it fails.
#pragma once
#include <map>
#include <set>

#include "memory/policy.hpp"

namespace pyparallel::memory {

class RmmPolicy : public Policy {
 public:
  explicit RmmPolicy(std::uint64_t device) : device_(device) {}
  bool allocate(std::uint64_t num_bytes, std::uint64_t stream, Handle* block) override;
  void free(Handle block) override;
  std::uint64_t reserved() const override { return reserved_; }
  std::uint64_t growths() const override { return growths_; }

 private:
  struct FreeList {
    std::map<std::uint64_t, std::uint64_t> by_address;          // address to bytes
    std::set<std::pair<std::uint64_t, std::uint64_t>> by_size;  // bytes and address
  };
  struct Live {
    std::uint64_t num_bytes, stream;
  };

  bool take(FreeList& from, std::uint64_t num_bytes, std::uint64_t* address);
  bool take_from_others(FreeList& own, std::uint64_t num_bytes, std::uint64_t* address);
  bool grow(FreeList& own, std::uint64_t num_bytes, std::uint64_t* address);
  void reclaim(FreeList& own, std::uint64_t num_bytes);
  std::uint64_t size_to_grow(std::uint64_t num_bytes) const;
  void insert(FreeList& list, std::uint64_t address, std::uint64_t num_bytes);
  static void erase(FreeList& list, std::uint64_t address);

  const std::uint64_t device_;
  std::map<std::uint64_t, FreeList> streams_;
  std::map<std::uint64_t, std::uint64_t> upstream_blocks_;  // address to bytes
  std::map<std::uint64_t, Live> live_;                      // by address
  std::uint64_t next_address_ = 256, reserved_ = 0, growths_ = 0;
};

}  // namespace pyparallel::memory
