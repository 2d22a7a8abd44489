// Adam and AdamW on CUDA.
#include "kernels/adam.hpp"
#include "kernels/step/kernel.cuh"

namespace pyparallel {

void adam_cuda(const StepTensor* tensors, std::int64_t count, const StepTypes& types, const AdamHyper& hyper,
               const StepControl& control, int device, void* stream, DeviceTables* tables) {
  step_cuda(AdamRules{}, "adam", tensors, count, types, hyper, control, device, stream, tables, variant(hyper));
}

}  // namespace pyparallel
