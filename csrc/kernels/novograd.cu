// NovoGrad on CUDA.
#include "kernels/novograd.hpp"
#include "kernels/step/measure.cuh"

namespace pyparallel {

void novograd_cuda(const StepTensor* tensors, std::int64_t count, const StepTypes& types, const NovogradHyper& hyper,
                   const StepControl& control, int device, void* stream, DeviceTables* tables) {
  measure_cuda<NovogradMeasure, NovogradRule>("novograd", tensors, count, types, hyper, control, device, stream,
                                              tables);
  step_cuda(NovogradRules{}, "novograd", tensors, count, types, hyper, control, device, stream, tables, variant(hyper));
}

}  // namespace pyparallel
