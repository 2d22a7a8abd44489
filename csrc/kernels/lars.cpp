// LARS on the CPU.
#include "kernels/lars.hpp"

#include "kernels/step/measure.hpp"
#if PP_LISTS
#include "kernels/step/measure_list.hpp"
#endif

namespace pyparallel {
namespace PP_ISA {

void lars_measure_range(const StepTensor& t, std::int64_t begin, std::int64_t end, const StepTypes& types,
                        const void* scalars, double* sums) {
  measure_range<LarsMeasure>(t, begin, end, types, scalars, sums);
}

void lars_range(const StepTensor& t, std::int64_t begin, std::int64_t end, const StepTypes& types, const void* scalars,
                int variant) {
  step_range(LarsRules{}, t, begin, end, types, scalars, variant);
}

}  // namespace PP_ISA
}  // namespace pyparallel

#if PP_LISTS
namespace pyparallel {

PP_DECLARE_PER_ISA(void lars_measure_range(const StepTensor&, std::int64_t begin, std::int64_t end, const StepTypes&,
                                           const void* scalars, double* sums))
PP_DECLARE_PER_ISA(void lars_range(const StepTensor&, std::int64_t begin, std::int64_t end, const StepTypes&,
                                   const void* scalars, int variant))

void lars_cpu(const StepTensor* tensors, std::int64_t count, const StepTypes& types, const LarsHyper& hyper,
              const StepControl& control, int threads) {
  const auto measure = [](auto&&... arguments) { PP_CALL_PER_ISA(lars_measure_range, arguments...); };
  const auto range = [&](auto&&... arguments) { PP_CALL_PER_ISA(lars_range, arguments..., variant(hyper)); };
  if (hyper.momentum != 0.0)
    measure_list<LarsMeasure, LarsRule<true>>("lars", tensors, count, types, hyper, control, threads, measure);
  else
    measure_list<LarsMeasure, LarsRule<false>>("lars", tensors, count, types, hyper, control, threads, measure);
  step_list(LarsRules{}, "lars", tensors, count, types, hyper, control, threads, range, variant(hyper));
}

}  // namespace pyparallel
#endif  // PP_LISTS
