// RMSprop on CUDA.
#include "kernels/rmsprop.hpp"
#include "kernels/step/kernel.cuh"

namespace pyparallel {

void rmsprop_cuda(const StepTensor* tensors, std::int64_t count, const StepTypes& types, const RmspropHyper& hyper,
                  const StepControl& control, int device, void* stream, DeviceTables* tables) {
  step_cuda(RmspropRules{}, "rmsprop", tensors, count, types, hyper, control, device, stream, tables, variant(hyper));
}

}  // namespace pyparallel
