// Which bytes are taken when: a segment tree over time whose nodes hold sets of byte ranges.
//
// A block alive over [first, last) belongs to the O(log n) nodes that cover that time. A node keeps two sets: `whole`,
// of blocks that cover all its time, and `any`, of blocks that meet its time. What is taken during a span of time is
// then the union of `any` at the nodes that cover it and of `whole` above them. Ranges that touch are merged, and
// blocks are packed densely: the sets stay small.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

namespace pyparallel::memory {

// A set of numbers as disjoint ranges in order.
class Ranges {
 public:
  struct Range {
    std::uint64_t begin, end;
  };

  // The work done, in ranges moved.
  std::uint64_t add(Range added) {
    const auto first = std::lower_bound(ranges_.begin(), ranges_.end(), added.begin,
                                        [](const Range& range, std::uint64_t begin) { return range.end < begin; });
    auto last = first;
    for (; last != ranges_.end() && last->begin <= added.end; ++last) {
      added.begin = std::min(added.begin, last->begin);
      added.end = std::max(added.end, last->end);
    }
    const auto moved = static_cast<std::uint64_t>(ranges_.end() - first);
    if (first == last) {
      ranges_.insert(first, added);
    } else {
      *first = added;
      ranges_.erase(first + 1, last);
    }
    return moved;
  }
  const std::vector<Range>& all() const { return ranges_; }

 private:
  std::vector<Range> ranges_;
};

class Occupancy {
 public:
  struct Span {  // of time
    std::size_t first, last;
  };

  // `longest`: of all spans. Nodes of more time than that are never looked at as a whole, nor kept.
  Occupancy(std::size_t times, std::size_t longest) {
    while (leaves_ * kLeafTime < times) leaves_ *= 2;
    while (root_time_ < std::min(longest, leaves_ * kLeafTime)) root_time_ *= 2;
    nodes_.resize(2 * leaves_);
    pieces_.resize(leaves_);
  }

  // The lowest offset from which `size` is free during all spans.
  std::uint64_t lowest_free(const std::vector<Span>& spans, std::uint64_t size) {
    sets_.clear();
    used_scratch_ = 0;
    for (const Span& span : spans)
      for_each_root(span, [&](std::size_t root, Span of_root) { collect(root, of_root, span); });
    return lowest_gap(size);
  }

  void add(const std::vector<Span>& spans, Ranges::Range range) {
    for (const Span& span : spans)
      for_each_root(span, [&](std::size_t root, Span of_root) { add(root, of_root, span, range); });
  }
  std::uint64_t operations() const { return operations_; }

 private:
  static constexpr std::size_t kLeafTime = 128;
  struct Node {
    Ranges whole, any;
  };
  struct Piece {  // of a block, in a leaf of which it covers not all time
    Ranges::Range range;
    Span span;
  };
  struct Cursor {
    const Ranges::Range *next, *end;  // next: the first that may end beyond what was looked at
  };

  template <class Visit>
  void for_each_root(Span span, const Visit& visit) {
    for (std::size_t begin = span.first / root_time_ * root_time_; begin < span.last; begin += root_time_)
      visit((leaves_ * kLeafTime + begin) / root_time_, Span{begin, begin + root_time_});
  }

  void look_at(const std::vector<Ranges::Range>& ranges) {
    if (!ranges.empty()) sets_.push_back({ranges.data(), ranges.data() + ranges.size()});
    ++operations_;
  }

  void collect(std::size_t node, Span of_node, Span span) {
    if (span.last <= of_node.first || of_node.last <= span.first) return;
    const bool inside = span.first <= of_node.first && of_node.last <= span.last;
    look_at(inside ? nodes_[node].any.all() : nodes_[node].whole.all());
    if (inside) return;
    if (node >= leaves_) return collect_pieces(pieces_[node - leaves_], span);
    const std::size_t middle = (of_node.first + of_node.last) / 2;
    collect(2 * node, {of_node.first, middle}, span);
    collect(2 * node + 1, {middle, of_node.last}, span);
  }

  void collect_pieces(const std::vector<Piece>& pieces, Span span) {
    std::vector<Ranges::Range>& found = scratch_[used_scratch_++];
    if (found.size() < pieces.size()) found.resize(2 * pieces.size());
    std::size_t count = 0;  // without branches, which nobody could predict
    for (const auto& [range, alive] : pieces) {
      found[count] = range;
      count += static_cast<std::size_t>(alive.first < span.last) & static_cast<std::size_t>(span.first < alive.last);
    }
    operations_ += pieces.size() / 8;
    if (count > 0) sets_.push_back({found.data(), found.data() + count});
  }

  std::uint64_t lowest_gap(std::uint64_t size) {
    std::uint64_t offset = 0;
    for (bool moved = true; moved;) {
      moved = false;
      for (Cursor& set : sets_) {
        const Ranges::Range* const first = set.next;
        while (set.next != set.end && set.next->begin < offset + size) {
          if (set.next->end > offset) {
            offset = set.next->end;
            moved = true;
          }
          ++set.next;
        }
        operations_ += static_cast<std::uint64_t>(set.next - first);
      }
      operations_ += sets_.size();
    }
    return offset;
  }

  void add(std::size_t node, Span of_node, Span span, Ranges::Range range) {
    if (span.last <= of_node.first || of_node.last <= span.first) return;
    operations_ += 2 + nodes_[node].any.add(range) / 16;
    if (span.first <= of_node.first && of_node.last <= span.last) {
      operations_ += 2 + nodes_[node].whole.add(range) / 16;
      return;
    }
    if (node >= leaves_) {
      std::vector<Piece>& pieces = pieces_[node - leaves_];
      const auto place = std::lower_bound(pieces.begin(), pieces.end(), range.begin,
                                          [](const Piece& a, std::uint64_t begin) { return a.range.begin < begin; });
      operations_ += 2 + static_cast<std::uint64_t>(pieces.end() - place) / 8;
      pieces.insert(place, {range, span});
      return;
    }
    const std::size_t middle = (of_node.first + of_node.last) / 2;
    add(2 * node, {of_node.first, middle}, span, range);
    add(2 * node + 1, {middle, of_node.last}, span, range);
  }

  std::size_t leaves_ = 1, root_time_ = kLeafTime;
  std::vector<Node> nodes_;                 // 1 would be the root of all; 2i and 2i + 1 halve the time of i
  std::vector<std::vector<Piece>> pieces_;  // by leaf, by begin
  std::vector<Cursor> sets_;
  std::array<std::vector<Ranges::Range>, 4> scratch_;  // a span has two ends, and there are two spans at most
  std::size_t used_scratch_ = 0;
  std::uint64_t operations_ = 0;
};

}  // namespace pyparallel::memory
