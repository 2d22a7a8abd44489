// First fit in several greedy orders, then a local search over orders.
#include "memory/plan.hpp"

#include <algorithm>
#include <numeric>
#include <random>
#include <string>

#include "core/error.hpp"
#include "memory/occupancy.hpp"
#include "memory/upstream.hpp"

namespace pyparallel::memory {
namespace {

using Order = std::vector<std::uint32_t>;
using Span = Occupancy::Span;

// The problem in units: sizes of kAlignment, times of births (only they can meet a block that is alive).
struct Problem {
  std::vector<std::uint64_t> sizes, lengths;  // lengths: of the lifetimes, in births
  std::vector<std::vector<Span>> spans;       // one, or two of a lifetime across the end of the circle
  std::size_t times = 0;
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
  std::uint64_t peak = ~std::uint64_t{0};
};

class Search {
 public:
  static constexpr int kPatience = 500;   // tries without a lower peak
  static constexpr std::size_t kFew = 6;  // blocks of which all orders are tried

  Search(const Problem& problem, std::uint64_t budget) : problem_(problem), budget_(budget) {}

  Packing run() {
    for (const Order& order : greedy_orders()) {
      if (over()) break;
      consider(order);
    }
    if (problem_.sizes.size() <= kFew) {
      Order order(problem_.sizes.size());
      std::iota(order.begin(), order.end(), 0u);
      while (!over() && std::next_permutation(order.begin(), order.end())) consider(order);
      return best_;
    }
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
    if (best_.offsets.empty()) return false;
    return operations_ >= budget_ || best_.peak - problem_.lower_bound <= problem_.lower_bound / 1000;
  }

  std::vector<Order> greedy_orders() const {
    Order by_birth(problem_.sizes.size());
    std::iota(by_birth.begin(), by_birth.end(), 0u);
    std::stable_sort(by_birth.begin(), by_birth.end(), [&](std::uint32_t a, std::uint32_t b) {
      return problem_.spans[a][0].first < problem_.spans[b][0].first;
    });
    const auto descending = [&](const auto& key) {
      Order order = by_birth;
      std::stable_sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) { return key(a) > key(b); });
      return order;
    };
    const auto& sizes = problem_.sizes;
    const auto& lengths = problem_.lengths;
    return {
        descending([&](std::uint32_t i) { return std::pair(sizes[i], lengths[i]); }),
        descending([&](std::uint32_t i) { return std::pair(lengths[i], sizes[i]); }),
        descending([&](std::uint32_t i) { return static_cast<double>(sizes[i]) * static_cast<double>(lengths[i]); }),
        by_birth,
    };
  }

  // Packs in that order; keeps the result if it is no higher than the best. True if it was kept.
  bool consider(const Order& order) {
    Occupancy occupancy(problem_.times);
    Packing packing{std::vector<std::uint64_t>(order.size()), 0};
    const bool first = best_.offsets.empty();
    bool kept = true;
    for (const std::uint32_t i : order) {
      const bool search = operations_ + occupancy.operations() < budget_;
      const std::uint64_t offset = occupancy.lowest_free(problem_.spans[i], problem_.sizes[i], search || !first);
      packing.offsets[i] = offset;
      packing.peak = std::max(packing.peak, offset + problem_.sizes[i]);
      kept = first || (packing.peak <= best_.peak && search);
      if (!kept) break;
      if (problem_.sizes[i] > 0) occupancy.add(problem_.spans[i], {offset, offset + problem_.sizes[i]});
    }
    operations_ += occupancy.operations() + order.size();
    if (!kept) return false;
    best_ = std::move(packing);
    order_ = order;
    return true;
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
  std::uint64_t operations_ = 0;
  std::mt19937_64 random_{1};  // the same numbers on every rank
  Packing best_;
  Order order_;  // of the best
};

}  // namespace

Plan plan_offsets(const std::vector<Lifetime>& lifetimes, std::uint64_t period, std::uint64_t budget) {
  const Problem problem = make_problem(lifetimes, period);
  Packing packing = Search(problem, budget).run();
  Plan plan{std::move(packing.offsets), 0, problem.lower_bound * kAlignment};
  if (!lifetimes.empty()) plan.num_bytes = packing.peak * kAlignment;
  for (std::uint64_t& offset : plan.offsets) offset *= kAlignment;
  return plan;
}

}  // namespace pyparallel::memory
