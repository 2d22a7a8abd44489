// Muon's elementwise parts on CUDA.
#include "kernels/muon.hpp"
#include "kernels/step/kernel.cuh"

namespace pyparallel {

void muon_cuda(const StepTensor* tensors, std::int64_t count, const StepTypes& types, const MuonHyper& hyper,
               const StepControl& control, int device, void* stream, DeviceTables* tables) {
  step_cuda(MuonRules{}, "muon", tensors, count, types, hyper, control, device, stream, tables, variant(hyper));
}

}  // namespace pyparallel
