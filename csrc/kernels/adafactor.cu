// Adafactor's elementwise part on CUDA.
#include "kernels/adafactor.hpp"
#include "kernels/step/measure.cuh"

namespace pyparallel {

void adafactor_cuda(const StepTensor* tensors, std::int64_t count, const StepTypes& types, const AdafactorHyper& hyper,
                    const StepControl& control, int device, void* stream, DeviceTables* tables) {
  measure_cuda<AdafactorMeasure, AdafactorRule>("adafactor", tensors, count, types, hyper, control, device, stream,
                                                tables);
  step_cuda(AdafactorRules{}, "adafactor", tensors, count, types, hyper, control, device, stream, tables,
            variant(hyper));
}

}  // namespace pyparallel
