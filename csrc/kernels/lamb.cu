// LAMB on CUDA.
#include "kernels/lamb.hpp"
#include "kernels/step/measure.cuh"

namespace pyparallel {

void lamb_cuda(const StepTensor* tensors, std::int64_t count, const StepTypes& types, const LambHyper& hyper,
               const StepControl& control, int device, void* stream, DeviceTables* tables) {
  measure_cuda<LambMeasure, LambRule>("lamb", tensors, count, types, hyper, control, device, stream, tables);
  step_cuda(LambRules{}, "lamb", tensors, count, types, hyper, control, device, stream, tables, variant(hyper));
}

}  // namespace pyparallel
