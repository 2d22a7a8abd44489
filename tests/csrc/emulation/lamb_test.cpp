// LAMB under emulation beside its CPU loop.
#include "kernels/lamb.hpp"

#include "step_cases.hpp"

using namespace pyparallel;

int main() {
  check_step_kernels<LambHyper>({lamb_cpu, lamb_cuda, true}, {{1e-2, 0.9, 0.99, 1e-2, 0.1, 10.0, true, true}});
}
