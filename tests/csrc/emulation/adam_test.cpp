// Adam and AdamW under emulation beside its CPU loop.
#include "kernels/adam.hpp"

#include "step_cases.hpp"

using namespace pyparallel;

int main() {
  check_step_kernels<AdamHyper>({adam_cpu, adam_cuda},
                                {{1e-2, 0.9, 0.99, 1e-8, 0.1, true, false}, {1e-2, 0.9, 0.99, 1e-8, 0.1, false, true}});
}
