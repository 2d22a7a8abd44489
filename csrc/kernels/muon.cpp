// Muon's elementwise parts on the CPU.
#include "kernels/muon.hpp"

#include "kernels/step/loop.hpp"
#if PP_LISTS
#include "kernels/step/list.hpp"
#endif

namespace pyparallel {
namespace PP_ISA {

void muon_range(const StepTensor& t, std::int64_t begin, std::int64_t end, const StepTypes& types, const void* scalars,
                int variant) {
  step_range(MuonRules{}, t, begin, end, types, scalars, variant);
}

}  // namespace PP_ISA
}  // namespace pyparallel

#if PP_LISTS
namespace pyparallel {

PP_DECLARE_PER_ISA(void muon_range(const StepTensor&, std::int64_t begin, std::int64_t end, const StepTypes&,
                                   const void* scalars, int variant))

void muon_cpu(const StepTensor* tensors, std::int64_t count, const StepTypes& types, const MuonHyper& hyper,
              const StepControl& control, int threads) {
  const auto range = [&](auto&&... arguments) { PP_CALL_PER_ISA(muon_range, arguments..., variant(hyper)); };
  step_list(MuonRules{}, "muon", tensors, count, types, hyper, control, threads, range, variant(hyper));
}

}  // namespace pyparallel
#endif  // PP_LISTS
