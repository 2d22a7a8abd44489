// RMSprop under emulation beside its CPU loop.
#include "kernels/rmsprop.hpp"

#include "step_cases.hpp"

using namespace pyparallel;

int main() {
  check_step_kernels<RmspropHyper>({rmsprop_cpu, rmsprop_cuda},
                                   {{1e-2, 0.9, 1e-8, 0.1, 0.0, false}, {1e-2, 0.9, 1e-2, 0.1, 0.9, true}});
}
