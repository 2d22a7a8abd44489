// A measuring rule over a list of tensors on the CPU: sums per range, added per tensor in the order of memory.
#pragma once
#include <array>

#include "kernels/step/list.hpp"

namespace pyparallel {

// The ranges depend on the sizes alone, and so do the bits of the sums.
template <class Rule, class Real, class RangeFunction>
void measure_list_in(const StepTensor* tensors, std::int64_t count, const StepTypes& types,
                     const typename Rule::Hyper& hyper, const StepControl& control, int threads,
                     const RangeFunction& range) {
  const auto step_of = [](const StepTensor& t) { return t.step != nullptr ? *t.step + 1.0f : 1.0f; };
  std::vector<StepScalars<Rule, Real>> scalars;
  for (std::int64_t i = 0; i < count; ++i) {
    const StepTensor& t = tensors[i];
    scalars.push_back(step_scalars<Rule, Real>(hyper, control, step_of(t), t.factor, t.number));
  }
  const RangeTasks ranges(tensors, count);
  const Range* const first = ranges.begin(0);
  std::vector<std::array<double, kSums>> partial(static_cast<std::size_t>(ranges.begin(ranges.tasks()) - first));
  parallel_for(ranges.tasks(), threads, [&](std::int64_t task) {
    for (const Range* r = ranges.begin(task); r != ranges.end(task); ++r)
      range(tensors[r->index], r->begin, r->end, types, &scalars[r->index], partial[r - first].data());
  });
  std::vector<std::array<double, kSums>> sums(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < partial.size(); ++i)
    for (int k = 0; k < kSums; ++k) sums[first[i].index][k] += partial[i][k];
  for (std::int64_t i = 0; i < count; ++i) {
    const StepTensor& t = tensors[i];
    if (t.numel > 0)
      *t.factor = Rule::factor(hyper, step_of(t), sums[i].data(), static_cast<double>(t.numel), *t.factor);
  }
}

// Before the step_list of `Step`, whose step counts it finds not yet advanced.
template <class Rule, class Step, class RangeFunction>
void measure_list(const char* name, const StepTensor* tensors, std::int64_t count, const StepTypes& types,
                  const typename Rule::Hyper& hyper, const StepControl& control, int threads,
                  const RangeFunction& range) {
  check_step<Step>(name, tensors, count, types);
  check_factors(name, tensors, count);
  if (is_skipped(control)) return;
  if (types.param == DType::kFloat64)
    measure_list_in<Rule, double>(tensors, count, types, hyper, control, threads, range);
  else
    measure_list_in<Rule, float>(tensors, count, types, hyper, control, threads, range);
}

}  // namespace pyparallel
