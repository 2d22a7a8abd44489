// LARS on CUDA.
#include "kernels/lars.hpp"
#include "kernels/step/measure.cuh"

namespace pyparallel {

void lars_cuda(const StepTensor* tensors, std::int64_t count, const StepTypes& types, const LarsHyper& hyper,
               const StepControl& control, int device, void* stream, DeviceTables* tables) {
  if (hyper.momentum != 0.0)
    measure_cuda<LarsMeasure, LarsRule<true>>("lars", tensors, count, types, hyper, control, device, stream, tables);
  else
    measure_cuda<LarsMeasure, LarsRule<false>>("lars", tensors, count, types, hyper, control, device, stream, tables);
  step_cuda(LarsRules{}, "lars", tensors, count, types, hyper, control, device, stream, tables, variant(hyper));
}

}  // namespace pyparallel
