// Which bytes are taken when: a segment tree over time whose nodes hold sets of byte ranges.
//
// A block alive over [first, last) belongs to the O(log n) nodes that cover that time. A node keeps two sets: `whole`,
// of blocks that cover all its time, and `any`, of blocks that meet its time. What is taken during a span of time is
// then the union of `any` at the nodes that cover it and of `whole` above them. Ranges that touch are merged, and
// blocks are packed densely: the sets stay small.
#pragma once
#include <algorithm>
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
  std::uint64_t end() const { return ranges_.empty() ? 0 : ranges_.back().end; }

 private:
  std::vector<Range> ranges_;
};

class Occupancy {
 public:
  struct Span {  // of time
    std::size_t first, last;
  };

  explicit Occupancy(std::size_t times) {
    while (leaves_ < times) leaves_ *= 2;
    nodes_.resize(2 * leaves_);
  }

  // The lowest offset from which `size` is free during all spans. `search`: false takes what lies above everything.
  std::uint64_t lowest_free(const std::vector<Span>& spans, std::uint64_t size, bool search) {
    sets_.clear();
    for (const Span& span : spans) collect(1, {0, leaves_}, span);
    if (search) return lowest_gap(size);
    std::uint64_t top = 0;
    for (const Cursor& set : sets_) top = std::max(top, set.ranges->back().end);
    return top;
  }

  void add(const std::vector<Span>& spans, Ranges::Range range) {
    for (const Span& span : spans) add(1, {0, leaves_}, span, range);
  }
  std::uint64_t operations() const { return operations_; }

 private:
  struct Node {
    Ranges whole, any;
  };
  struct Cursor {
    const std::vector<Ranges::Range>* ranges;
    std::size_t next;  // the first range that may end beyond what was looked at
  };

  void collect(std::size_t node, Span of_node, Span span) {
    if (span.last <= of_node.first || of_node.last <= span.first) return;
    const bool inside = span.first <= of_node.first && of_node.last <= span.last;
    const Ranges& ranges = inside ? nodes_[node].any : nodes_[node].whole;
    if (!ranges.all().empty()) sets_.push_back({&ranges.all(), 0});
    ++operations_;
    if (inside) return;
    const std::size_t middle = (of_node.first + of_node.last) / 2;
    collect(2 * node, {of_node.first, middle}, span);
    collect(2 * node + 1, {middle, of_node.last}, span);
  }

  std::uint64_t lowest_gap(std::uint64_t size) {
    std::uint64_t offset = 0;
    for (bool moved = true; moved;) {
      moved = false;
      for (Cursor& set : sets_) {
        while (set.next < set.ranges->size()) {
          const Ranges::Range& range = (*set.ranges)[set.next];
          if (range.end > offset) {
            if (range.begin >= offset + size) break;
            offset = range.end;
            moved = true;
          }
          ++set.next;
          ++operations_;
        }
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
    const std::size_t middle = (of_node.first + of_node.last) / 2;
    add(2 * node, {of_node.first, middle}, span, range);
    add(2 * node + 1, {middle, of_node.last}, span, range);
  }

  std::size_t leaves_ = 1;
  std::vector<Node> nodes_;  // 1 is the root, 2i and 2i + 1 halve the time of i
  std::vector<Cursor> sets_;
  std::uint64_t operations_ = 0;
};

}  // namespace pyparallel::memory
