// Lion on CUDA.
#include "kernels/lion.hpp"
#include "kernels/step/kernel.cuh"

namespace pyparallel {

void lion_cuda(const StepTensor* tensors, std::int64_t count, const StepTypes& types, const LionHyper& hyper,
               const StepControl& control, int device, void* stream, DeviceTables* tables) {
  step_cuda(LionRules{}, "lion", tensors, count, types, hyper, control, device, stream, tables, variant(hyper));
}

}  // namespace pyparallel
