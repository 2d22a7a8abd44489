// NovoGrad under emulation beside its CPU loop.
#include "kernels/novograd.hpp"

#include "step_cases.hpp"

using namespace pyparallel;

int main() {
  check_step_kernels<NovogradHyper>({novograd_cpu, novograd_cuda, true}, {{1e-2, 0.9, 0.9, 1e-8, 0.1, true}});
}
