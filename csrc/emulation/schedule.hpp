// Who is next: the threads of a block that can go on, one bit each, and the four orders in which they are chosen.
#pragma once
#include <array>
#include <bit>
#include <cstdint>

#include "emulation/config.hpp"

namespace pyparallel::emulation {

inline constexpr int kWarpThreads = 32;
inline constexpr int kMaxWarps = 32;
inline constexpr int kMaxBlockThreads = kWarpThreads * kMaxWarps;

class Schedule {
 public:
  Schedule(ThreadOrder order, std::uint64_t seed) : order_(order), random_(seed) {}

  void add(int warp, std::uint32_t lanes) {
    if (lanes == 0) return;
    lanes_[static_cast<std::size_t>(warp)] |= lanes;
    warps_ |= 1u << warp;
    count_ += std::popcount(lanes);
  }

  bool empty() const { return count_ == 0; }

  // Takes one thread out and returns its number in the block. Not empty.
  int next() {
    const int warp = next_warp();
    std::uint32_t& lanes = lanes_[static_cast<std::size_t>(warp)];
    const int lane = order_ == ThreadOrder::kForward   ? std::countr_zero(lanes)
                     : order_ == ThreadOrder::kReverse ? 31 - std::countl_zero(lanes)
                                                       : any_bit(lanes);
    lanes &= ~(1u << lane);
    if (lanes == 0) warps_ &= ~(1u << warp);
    --count_;
    last_warp_ = warp;
    return warp * kWarpThreads + lane;
  }

 private:
  int any_bit(std::uint32_t bits) {
    for (unsigned skip = random_.below(static_cast<unsigned>(std::popcount(bits))); skip > 0; --skip) bits &= bits - 1;
    return std::countr_zero(bits);
  }

  int next_warp() {
    switch (order_) {
      case ThreadOrder::kForward:
        return std::countr_zero(warps_);
      case ThreadOrder::kReverse:
        return 31 - std::countl_zero(warps_);
      case ThreadOrder::kByWarp:
        return warps_ >> last_warp_ & 1u ? last_warp_ : any_bit(warps_);
      case ThreadOrder::kUniform:
        break;
    }
    int warp = 0;
    for (int skip = static_cast<int>(random_.below(static_cast<unsigned>(count_)));; ++warp) {
      const int here = std::popcount(lanes_[static_cast<std::size_t>(warp)]);
      if (skip < here) return warp;
      skip -= here;
    }
  }

  ThreadOrder order_;
  Random random_;
  std::array<std::uint32_t, kMaxWarps> lanes_{};
  std::uint32_t warps_ = 0;  // those with a lane that can go on
  int count_ = 0;
  int last_warp_ = 0;
};

}  // namespace pyparallel::emulation
