// SGD on CUDA.
#include "kernels/sgd.hpp"
#include "kernels/step/kernel.cuh"

namespace pyparallel {

void sgd_cuda(const StepTensor* tensors, std::int64_t count, const StepTypes& types, const SgdHyper& hyper,
              const StepControl& control, int device, void* stream, DeviceTables* tables) {
  step_cuda(SgdRules{}, "sgd", tensors, count, types, hyper, control, device, stream, tables, variant(hyper));
}

}  // namespace pyparallel
