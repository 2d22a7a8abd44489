// SGD on CUDA.
#include "kernels/sgd.hpp"
#include "kernels/step/kernel.cuh"

namespace pyparallel {

void sgd_cuda(const StepTensor* tensors, std::int64_t count, const StepTypes& types, const SgdHyper& hyper,
              const StepControl& control, int device, void* stream) {
  step_cuda(SgdRules{}, "sgd", tensors, count, types, hyper, control, device, stream, variant(hyper));
}

}  // namespace pyparallel
