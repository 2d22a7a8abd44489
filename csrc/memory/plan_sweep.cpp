// Blocks alive over the end of the circle come first, one above the other, the last born at the bottom:
//
//   bottom   |b3|b2|b1|b0|        what is free      births   b3 > b2 > b1 > b0
//             0 ......... top                                                  above the top: free for ever
//
// So what a block may have that dies at d is everything but one range: from the place of the first of them that is born
// before d up to the top.
#include "memory/plan_sweep.hpp"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

namespace pyparallel::memory {
namespace {

constexpr std::uint64_t kEndless = ~std::uint64_t{0};

// The free bytes of one moment.
class Gaps {
 public:
  explicit Gaps(std::uint64_t begin) { insert(begin, kEndless); }

  // The lowest offset in the smallest gap with `size` bytes that are not in [forbidden, top).
  std::uint64_t find(std::uint64_t size, std::uint64_t forbidden, std::uint64_t top) const {
    constexpr int kTries = 64;  // of gaps that are large enough; then the endless one has it
    auto gap = by_size_.lower_bound({size, 0});
    for (int i = 0; i < kTries && gap != by_size_.end(); ++i, ++gap) {
      const std::uint64_t begin = gap->second, end = begin + gap->first;
      if (forbidden == top || begin + size <= std::min(end, forbidden)) return begin;
      if (std::max(begin, top) + size <= end) return std::max(begin, top);
    }
    return std::max(by_begin_.rbegin()->first, top);
  }

  void take(std::uint64_t begin, std::uint64_t end) {
    const auto gap = std::prev(by_begin_.upper_bound(begin));
    const auto [gap_begin, gap_end] = *gap;
    erase(gap);
    if (gap_begin < begin) insert(gap_begin, begin);
    if (end < gap_end) insert(end, gap_end);
  }

  void give(std::uint64_t begin, std::uint64_t end) {
    const auto after = by_begin_.find(end);
    if (after != by_begin_.end()) {
      end = after->second;
      erase(after);
    }
    const auto next = by_begin_.upper_bound(begin);
    if (next != by_begin_.begin() && std::prev(next)->second == begin) {
      begin = std::prev(next)->first;
      erase(std::prev(next));
    }
    insert(begin, end);
  }

 private:
  using ByBegin = std::map<std::uint64_t, std::uint64_t>;

  void insert(std::uint64_t begin, std::uint64_t end) {
    by_begin_[begin] = end;
    by_size_.emplace(end - begin, begin);
  }
  void erase(ByBegin::const_iterator gap) {
    by_size_.erase({gap->second - gap->first, gap->first});
    by_begin_.erase(gap);
  }

  ByBegin by_begin_;  // to its end
  std::set<std::pair<std::uint64_t, std::uint64_t>> by_size_;
};

using Numbers = std::vector<std::uint32_t>;

template <class Key>
Numbers sorted_by(const Key& key, Numbers numbers) {
  std::stable_sort(numbers.begin(), numbers.end(), [&](std::uint32_t a, std::uint32_t b) { return key(a) < key(b); });
  return numbers;
}

}  // namespace

std::vector<std::uint64_t> sweep_offsets(const std::vector<Lifetime>& lifetimes, std::uint64_t period) {
  Numbers all(lifetimes.size()), spanning;
  std::iota(all.begin(), all.end(), 0u);
  for (const std::uint32_t i : all)
    if (lifetimes[i].death > period && lifetimes[i].num_bytes > 0) spanning.push_back(i);
  spanning = sorted_by([&](std::uint32_t i) { return period - lifetimes[i].birth; }, std::move(spanning));
  std::vector<std::uint64_t> offsets(lifetimes.size());
  std::uint64_t top = 0;
  for (const std::uint32_t i : spanning) {
    offsets[i] = top;
    top += lifetimes[i].num_bytes;
  }
  // Those die for the first time in this round of the circle, all others in the order of their births.
  const Numbers by_birth = sorted_by([&](std::uint32_t i) { return lifetimes[i].birth; }, all);
  const auto first_death = [&](std::uint32_t i) {
    return lifetimes[i].death > period ? lifetimes[i].death - period : lifetimes[i].death;
  };
  const Numbers by_death = sorted_by(first_death, std::move(all));
  Gaps gaps(top);
  auto dead = by_death.begin();
  for (const std::uint32_t i : by_birth) {
    const auto [num_bytes, birth, death] = lifetimes[i];
    for (; dead != by_death.end() && first_death(*dead) <= birth; ++dead)
      if (lifetimes[*dead].num_bytes > 0) gaps.give(offsets[*dead], offsets[*dead] + lifetimes[*dead].num_bytes);
    if (num_bytes == 0) continue;
    if (death <= period) {
      const auto back = std::partition_point(spanning.begin(), spanning.end(),
                                             [&](std::uint32_t other) { return lifetimes[other].birth >= death; });
      offsets[i] = gaps.find(num_bytes, back == spanning.end() ? top : offsets[*back], top);
    }
    gaps.take(offsets[i], offsets[i] + num_bytes);
  }
  return offsets;
}

}  // namespace pyparallel::memory
