// Best fit in the order of time, first fit in several greedy orders, then a local search over orders.
#include "memory/plan.hpp"

#include <algorithm>
#include <numeric>
#include <random>
#include <string>

#include "core/error.hpp"
#include "memory/occupancy.hpp"
#include "memory/plan_sweep.hpp"
#include "memory/upstream.hpp"

namespace pyparallel::memory {
namespace {

using Order = std::vector<std::uint32_t>;
using Span = Occupancy::Span;

// The problem in units: sizes of kAlignment, times of births (only they can meet a block that is alive).
struct Problem {
  std::vector<std::uint64_t> sizes, lengths;  // lengths: of the lifetimes, in births
  std::vector<std::vector<Span>> spans;       // one, or two of a lifetime across the end of the circle
  std::size_t times = 0, longest = 0;         // of all spans
  std::uint64_t lower_bound = 0;
};

void check(const Lifetime& lifetime, std::uint64_t period) {
  const auto [num_bytes, birth, death] = lifetime;
  if (num_bytes % kAlignment == 0 && birth < period && birth < death && death - birth <= period) return;
  throw InvalidArgument("plan: " + std::to_string(num_bytes) + " bytes alive over [" + std::to_string(birth) + ", " +
                        std::to_string(death) + ") of a period of " + std::to_string(period));
}

Problem make_problem(const std::vector<Lifetime>& lifetimes, std::uint64_t period) {
  std::vector<std::uint64_t> births;
  for (const Lifetime& lifetime : lifetimes) {
    check(lifetime, period);
    births.push_back(lifetime.birth);
  }
  std::sort(births.begin(), births.end());
  births.erase(std::unique(births.begin(), births.end()), births.end());
  const auto before = [&](std::uint64_t time) {
    return static_cast<std::size_t>(std::lower_bound(births.begin(), births.end(), time) - births.begin());
  };
  Problem problem;
  problem.times = births.size();
  std::vector<std::uint64_t> live(problem.times + 1);  // differences
  for (const Lifetime& lifetime : lifetimes) {
    const std::size_t first = before(lifetime.birth), last = before(std::min(lifetime.death, period));
    std::vector<Span> spans = {{first, last}};
    if (lifetime.death > period)
      if (const std::size_t rest = before(lifetime.death - period); rest > 0) spans.push_back({0, rest});
    problem.sizes.push_back(lifetime.num_bytes / kAlignment);
    problem.lengths.push_back(0);
    for (const Span& span : spans) {
      problem.lengths.back() += span.last - span.first;
      problem.longest = std::max(problem.longest, span.last - span.first);
      live[span.first] += problem.sizes.back(), live[span.last] -= problem.sizes.back();
    }
    problem.spans.push_back(std::move(spans));
  }
  std::partial_sum(live.begin(), live.end(), live.begin());
  for (const std::uint64_t now : live) problem.lower_bound = std::max(problem.lower_bound, now);
  return problem;
}

struct Packing {
  std::vector<std::uint64_t> offsets;
  std::uint64_t peak = 0;
};

Packing packed(const Problem& problem, std::vector<std::uint64_t> offsets) {
  Packing packing{std::move(offsets)};
  for (std::size_t i = 0; i < packing.offsets.size(); ++i) {
    packing.offsets[i] /= kAlignment;
    packing.peak = std::max(packing.peak, packing.offsets[i] + problem.sizes[i]);
  }
  return packing;
}

class Search {
 public:
  static constexpr int kPatience = 500;        // tries without a lower peak
  static constexpr std::size_t kFew = 6;       // blocks of which all orders are tried
  static constexpr std::uint64_t kSweep = 15;  // operations per block

  // `first`: what is improved.
  Search(const Problem& problem, Packing first, std::uint64_t budget)
      : problem_(problem), budget_(budget), operations_(kSweep * problem.sizes.size()), best_(std::move(first)) {}

  Packing run() {
    for (int number = 0; number < kGreedyOrders && !over(); ++number) consider(greedy_order(number));
    if (problem_.sizes.size() <= kFew) {
      Order order(problem_.sizes.size());
      std::iota(order.begin(), order.end(), 0u);
      while (!over() && std::next_permutation(order.begin(), order.end())) consider(order);
      return best_;
    }
    if (order_.empty()) order_ = by_offset();
    for (int in_vain = 0; in_vain < kPatience && !over(); ++in_vain) {
      const std::uint64_t before = best_.peak;
      improve();
      if (best_.peak < before) in_vain = 0;
    }
    return best_;
  }

 private:
  // A thousandth above the bound is near enough.
  bool over() const {
    if (problem_.sizes.empty()) return true;
    return operations_ >= budget_ || best_.peak - problem_.lower_bound <= problem_.lower_bound / 1000;
  }

  static constexpr int kGreedyOrders = 4;
  Order greedy_order(int number) const {
    Order order(problem_.sizes.size());
    std::iota(order.begin(), order.end(), 0u);
    std::stable_sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
      return problem_.spans[a][0].first < problem_.spans[b][0].first;
    });
    const auto descending = [&](const auto& key) {
      std::stable_sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) { return key(a) > key(b); });
    };
    const auto& sizes = problem_.sizes;
    const auto& lengths = problem_.lengths;
    if (number == 0) descending([&](std::uint32_t i) { return std::pair(sizes[i], lengths[i]); });
    if (number == 1) descending([&](std::uint32_t i) { return std::pair(lengths[i], sizes[i]); });
    if (number == 2)
      descending([&](std::uint32_t i) { return static_cast<double>(sizes[i]) * static_cast<double>(lengths[i]); });
    return order;
  }

  // First fit in that order gives a plan that is no higher.
  Order by_offset() const {
    Order order(problem_.sizes.size());
    std::iota(order.begin(), order.end(), 0u);
    std::stable_sort(order.begin(), order.end(),
                     [&](std::uint32_t a, std::uint32_t b) { return best_.offsets[a] < best_.offsets[b]; });
    return order;
  }

  // Packs in that order; keeps the result if it is no higher than the best.
  void consider(const Order& order) {
    Occupancy occupancy(problem_.times, problem_.longest);
    Packing packing{std::vector<std::uint64_t>(order.size()), 0};
    bool kept = true;
    for (const std::uint32_t i : order) {
      const std::uint64_t offset = occupancy.lowest_free(problem_.spans[i], problem_.sizes[i]);
      packing.offsets[i] = offset;
      packing.peak = std::max(packing.peak, offset + problem_.sizes[i]);
      kept = packing.peak <= best_.peak && operations_ + occupancy.operations() < budget_;
      if (!kept) break;
      if (problem_.sizes[i] > 0) occupancy.add(problem_.spans[i], {offset, offset + problem_.sizes[i]});
    }
    operations_ += occupancy.operations() + order.size();
    if (!kept) return;
    best_ = std::move(packing);
    order_ = order;
  }

  // A block that ends at the top, and perhaps another, come earlier in the order.
  void improve() {
    std::vector<std::uint32_t> at_top;
    for (std::uint32_t place = 0; place < order_.size(); ++place)
      if (best_.offsets[order_[place]] + problem_.sizes[order_[place]] == best_.peak) at_top.push_back(place);
    Order order = order_;
    for (auto from = at_top[random_() % at_top.size()]; from > 0;) {
      const auto to = static_cast<std::uint32_t>(random_() % from);
      std::rotate(order.begin() + to, order.begin() + from, order.begin() + from + 1);
      if (random_() % 2 == 0) break;
      from = static_cast<std::uint32_t>(random_() % order.size());
    }
    consider(order);
    operations_ += order.size();
  }

  const Problem& problem_;
  const std::uint64_t budget_;
  std::uint64_t operations_;
  std::mt19937_64 random_{1};  // the same numbers on every rank
  Packing best_;
  Order order_;  // of the best; empty if it came from none
};

}  // namespace

Plan plan_offsets(const std::vector<Lifetime>& lifetimes, std::uint64_t period, std::uint64_t budget) {
  const Problem problem = make_problem(lifetimes, period);
  const Packing packing = Search(problem, packed(problem, sweep_offsets(lifetimes, period)), budget).run();
  Plan plan{packing.offsets, packing.peak * kAlignment, problem.lower_bound * kAlignment};
  for (std::uint64_t& offset : plan.offsets) offset *= kAlignment;
  return plan;
}

}  // namespace pyparallel::memory
