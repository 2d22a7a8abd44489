// The CPU loops around a rule, per instruction set: one that converts as it goes, for what is stepped most, and one for
// every other way in which values may lie in memory.
#pragma once
#include "kernels/step/convert.hpp"
#if defined(__AVX512BW__)
#include "kernels/step/wide.hpp"
#else
#include "kernels/step/staging.hpp"
#endif

namespace pyparallel {
namespace PP_ISA {

// A rule's update of elements [begin, end) of one tensor; `scalars` is the tensor's StepScalars<Rule, double> for
// float64 parameters, else its StepScalars<Rule, float>.
template <class Rule>
static void step_range(const StepTensor& t, std::int64_t begin, std::int64_t end, const StepTypes& types,
                       const void* scalars) {
  if (types.param == DType::kFloat64)
    return convert_range<Rule, double, double, double, false, double>(
        t, begin, end, *static_cast<const StepScalars<Rule, double>*>(scalars));
  const auto& s = *static_cast<const StepScalars<Rule, float>*>(scalars);
  const bool plain_grad = types.grad == types.param;
  const bool wide_state = types.state == DType::kFloat32;
  if (types.param == DType::kFloat32 && plain_grad && wide_state)
    return convert_range<Rule, float, float, float, false, float>(t, begin, end, s);
  if (types.param == DType::kBFloat16 && plain_grad && types.extra == Extra::kMaster && wide_state)
    return convert_range<Rule, BFloat16, BFloat16, float, true, float>(t, begin, end, s);
  if (types.param == DType::kBFloat16 && plain_grad && types.extra == Extra::kNone && wide_state)
    return convert_range<Rule, BFloat16, BFloat16, float, false, float>(t, begin, end, s);
#if defined(__AVX512BW__)
  wide_step<Rule>(t, begin, end, types, s);
#else
  if (types.param == DType::kBFloat16 && plain_grad && types.extra == Extra::kNone && types.state == DType::kBFloat16)
    return convert_range<Rule, BFloat16, BFloat16, BFloat16, false, float>(t, begin, end, s);
  staged_range<Rule>(t, begin, end, types, s);
#endif
}

template <class Rule, class... Rest>
static void step_range(Variants<Rule, Rest...>, const StepTensor& t, std::int64_t begin, std::int64_t end,
                       const StepTypes& types, const void* scalars, int variant) {
  if constexpr (sizeof...(Rest) > 0)
    if (variant > 0) return step_range(Variants<Rest...>{}, t, begin, end, types, scalars, variant - 1);
  step_range<Rule>(t, begin, end, types, scalars);
}

}  // namespace PP_ISA
}  // namespace pyparallel
