// Adagrad under emulation beside its CPU loop.
#include "kernels/adagrad.hpp"

#include "step_cases.hpp"

using namespace pyparallel;

int main() { check_step_kernels<AdagradHyper>({adagrad_cpu, adagrad_cuda}, {{1e-2, 0.1, 0.1, 1e-8}}); }
