// Muon under emulation beside its CPU loop.
#include "kernels/muon.hpp"

#include "step_cases.hpp"

using namespace pyparallel;

int main() {
  check_step_kernels<MuonHyper>({muon_cpu, muon_cuda}, {{1e-2, 0.9, 0.1, true, false}, {1e-2, 0.9, 0.1, true, true}});
}
