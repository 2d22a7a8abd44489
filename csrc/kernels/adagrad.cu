// Adagrad on CUDA.
#include "kernels/adagrad.hpp"
#include "kernels/step/kernel.cuh"

namespace pyparallel {

void adagrad_cuda(const StepTensor* tensors, std::int64_t count, const StepTypes& types, const AdagradHyper& hyper,
                  const StepControl& control, int device, void* stream, DeviceTables* tables) {
  step_cuda(AdagradRules{}, "adagrad", tensors, count, types, hyper, control, device, stream, tables, variant(hyper));
}

}  // namespace pyparallel
