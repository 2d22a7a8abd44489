// NovoGrad on the CPU.
#include "kernels/novograd.hpp"

#include "kernels/step/measure.hpp"
#if PP_LISTS
#include "kernels/step/measure_list.hpp"
#endif

namespace pyparallel {
namespace PP_ISA {

void novograd_measure_range(const StepTensor& t, std::int64_t begin, std::int64_t end, const StepTypes& types,
                            const void* scalars, double* sums) {
  measure_range<NovogradMeasure>(t, begin, end, types, scalars, sums);
}

void novograd_range(const StepTensor& t, std::int64_t begin, std::int64_t end, const StepTypes& types,
                    const void* scalars, int variant) {
  step_range(NovogradRules{}, t, begin, end, types, scalars, variant);
}

}  // namespace PP_ISA
}  // namespace pyparallel

#if PP_LISTS
namespace pyparallel {

PP_DECLARE_PER_ISA(void novograd_measure_range(const StepTensor&, std::int64_t begin, std::int64_t end,
                                               const StepTypes&, const void* scalars, double* sums))
PP_DECLARE_PER_ISA(void novograd_range(const StepTensor&, std::int64_t begin, std::int64_t end, const StepTypes&,
                                       const void* scalars, int variant))

void novograd_cpu(const StepTensor* tensors, std::int64_t count, const StepTypes& types, const NovogradHyper& hyper,
                  const StepControl& control, int threads) {
  const auto measure = [](auto&&... arguments) { PP_CALL_PER_ISA(novograd_measure_range, arguments...); };
  const auto range = [&](auto&&... arguments) { PP_CALL_PER_ISA(novograd_range, arguments..., variant(hyper)); };
  measure_list<NovogradMeasure, NovogradRule>("novograd", tensors, count, types, hyper, control, threads, measure);
  step_list(NovogradRules{}, "novograd", tensors, count, types, hyper, control, threads, range, variant(hyper));
}

}  // namespace pyparallel
#endif  // PP_LISTS
