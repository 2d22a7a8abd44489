// torch's CUDA caching allocator as a policy: two pools by size, segments of fixed sizes or expandable ones.
//
// Rules and constants as c10/cuda/CUDACachingAllocator.cpp of PyTorch 2.x documents them: blocks are multiples of 512
// bytes; up to 1 MiB they come from segments of 2 MiB, up to 10 MiB from segments of 20 MiB, beyond from segments of
// their own, a multiple of 2 MiB; a large block is split if more than 1 MiB is left, a small one if 512 bytes are.
// Expandable segments grow in pages of 2 or 20 MiB, one per pool and stream, and their blocks are always split.
#pragma once
#include <list>
#include <map>
#include <set>
#include <tuple>

#include "memory/replay.hpp"

namespace pyparallel::memory {

class TorchPolicy : public Policy {
 public:
  explicit TorchPolicy(bool expandable) : expandable_(expandable) {}
  std::uint64_t allocate(std::uint64_t num_bytes, std::uint64_t stream) override;
  void free(std::uint64_t address) override;
  std::uint64_t reserved() const override { return reserved_; }

 private:
  struct Pool;
  struct Piece {
    std::uint64_t address, num_bytes, segment, stream;
    bool small, free;
  };
  using Pieces = std::map<std::uint64_t, Piece>;                    // by address
  using Key = std::pair<std::uint64_t, bool>;                       // stream and whether small
  using Index = std::set<std::pair<std::uint64_t, std::uint64_t>>;  // free pieces by size and address

  Pieces::iterator grow(std::uint64_t num_bytes, std::uint64_t stream, bool small);
  Pieces::iterator add_free(const Piece& piece);
  bool should_split(const Piece& piece, std::uint64_t num_bytes) const;

  const bool expandable_;
  Pieces pieces_;
  std::map<Key, Index> free_;
  std::map<Key, std::uint64_t> ends_;  // of expandable segments
  std::uint64_t next_segment_ = 1, reserved_ = 0;
};

}  // namespace pyparallel::memory
