// Adafactor's elementwise part on the CPU.
#include "kernels/adafactor.hpp"

#include "kernels/step/measure.hpp"
#if PP_LISTS
#include "kernels/step/measure_list.hpp"
#endif

namespace pyparallel {
namespace PP_ISA {

void adafactor_measure_range(const StepTensor& t, std::int64_t begin, std::int64_t end, const StepTypes& types,
                             const void* scalars, double* sums) {
  measure_range<AdafactorMeasure>(t, begin, end, types, scalars, sums);
}

void adafactor_range(const StepTensor& t, std::int64_t begin, std::int64_t end, const StepTypes& types,
                     const void* scalars, int variant) {
  step_range(AdafactorRules{}, t, begin, end, types, scalars, variant);
}

}  // namespace PP_ISA
}  // namespace pyparallel

#if PP_LISTS
namespace pyparallel {

PP_DECLARE_PER_ISA(void adafactor_measure_range(const StepTensor&, std::int64_t begin, std::int64_t end,
                                                const StepTypes&, const void* scalars, double* sums))
PP_DECLARE_PER_ISA(void adafactor_range(const StepTensor&, std::int64_t begin, std::int64_t end, const StepTypes&,
                                        const void* scalars, int variant))

void adafactor_cpu(const StepTensor* tensors, std::int64_t count, const StepTypes& types, const AdafactorHyper& hyper,
                   const StepControl& control, int threads) {
  const auto measure = [](auto&&... arguments) { PP_CALL_PER_ISA(adafactor_measure_range, arguments...); };
  const auto range = [&](auto&&... arguments) { PP_CALL_PER_ISA(adafactor_range, arguments..., variant(hyper)); };
  measure_list<AdafactorMeasure, AdafactorRule>("adafactor", tensors, count, types, hyper, control, threads, measure);
  step_list(AdafactorRules{}, "adafactor", tensors, count, types, hyper, control, threads, range, variant(hyper));
}

}  // namespace pyparallel
#endif  // PP_LISTS
