// SGD under emulation beside its CPU loop.
#include "kernels/sgd.hpp"

#include "step_cases.hpp"

using namespace pyparallel;

int main() {
  check_step_kernels<SgdHyper>(
      {sgd_cpu, sgd_cuda}, {{1e-2, 0.9, 0.0, 0.1, true}, {1e-2, 0.0, 0.0, 0.1, false}, {1e-2, 0.9, 0.5, 0.0, false}});
}
