// Lion under emulation beside its CPU loop.
#include "kernels/lion.hpp"

#include "step_cases.hpp"

using namespace pyparallel;

int main() { check_step_kernels<LionHyper>({lion_cpu, lion_cuda}, {{1e-2, 0.9, 0.99, 0.1}}); }
