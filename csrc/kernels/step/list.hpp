// A rule over a list of tensors on the CPU: scalars once per tensor, then even pieces of work for all threads.
#pragma once
#include <vector>

#include "core/ranges.hpp"
#include "core/thread_pool.hpp"
#include "kernels/step/scalars.hpp"

namespace pyparallel {

// Advances the steps of all tensors, unless that is done, and computes their scalars.
template <class Rule, class Real>
std::vector<StepScalars<Rule, Real>> advance(const StepTensor* tensors, std::int64_t count,
                                             const typename Rule::Hyper& hyper, const StepControl& control) {
  std::vector<StepScalars<Rule, Real>> scalars(static_cast<std::size_t>(count));
  float previous = -1.0f;
  for (std::int64_t i = 0; i < count; ++i) {
    const StepTensor& t = tensors[i];
    if (control.advance && t.step != nullptr) *t.step += 1.0f;
    const float step = t.step != nullptr ? *t.step : 1.0f;
    if (step == previous && t.factor == nullptr) {
      scalars[i] = scalars[i - 1];
      scalars[i].key = random_key(control.seed, t.number, static_cast<std::uint32_t>(step));
    } else {
      scalars[i] = step_scalars<Rule, Real>(hyper, control, step, t.factor, t.number);
    }
    previous = t.factor == nullptr ? step : -1.0f;
  }
  return scalars;
}

// `range(tensor, begin, end, types, scalars)` is the loop of this CPU's instruction set.
template <class Rule, class Real, class RangeFunction>
void step_list_in(const StepTensor* tensors, std::int64_t count, const StepTypes& types,
                  const typename Rule::Hyper& hyper, const StepControl& control, int threads,
                  const RangeFunction& range) {
  const std::vector<StepScalars<Rule, Real>> scalars = advance<Rule, Real>(tensors, count, hyper, control);
  const RangeTasks ranges(tensors, count, streaming_task_elements(tensors, count, threads));
  parallel_for(ranges.tasks(), threads, [&](std::int64_t task) {
    for (const Range* r = ranges.begin(task); r != ranges.end(task); ++r)
      range(tensors[r->index], r->begin, r->end, types, &scalars[r->index]);
  });
}

template <class Hyper, class RangeFunction, class Rule, class... Rest>
void step_list(Variants<Rule, Rest...>, const char* name, const StepTensor* tensors, std::int64_t count,
               const StepTypes& types, const Hyper& hyper, const StepControl& control, int threads,
               const RangeFunction& range, int variant) {
  if constexpr (sizeof...(Rest) > 0)
    if (variant > 0)
      return step_list(Variants<Rest...>{}, name, tensors, count, types, hyper, control, threads, range, variant - 1);
  check_step<Rule>(name, tensors, count, types);
  if (is_skipped(control)) return;
  if (types.param == DType::kFloat64)
    step_list_in<Rule, double>(tensors, count, types, hyper, control, threads, range);
  else
    step_list_in<Rule, float>(tensors, count, types, hyper, control, threads, range);
}

}  // namespace pyparallel
