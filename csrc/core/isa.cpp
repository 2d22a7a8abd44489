// Which CPU variant runs: asked of CPUID once.
#include "core/isa.hpp"

#include <cstdlib>
#include <cstring>

#include "core/error.hpp"

namespace pyparallel {
namespace {

Isa best_isa() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    return Isa::kAvx512;
  // Every CPU with AVX2 and FMA also has F16C.
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::kAvx2;
#endif
  return Isa::kBaseline;
}

Isa choose_isa() {
  const Isa best = best_isa();
  const char* wish = std::getenv("PYPARALLEL_ISA");
  if (wish == nullptr || *wish == '\0') return best;
  for (Isa isa : {Isa::kBaseline, Isa::kAvx2, Isa::kAvx512}) {
    if (std::strcmp(wish, name(isa)) != 0) continue;
    if (isa <= best) return isa;
    throw InvalidArgument(std::string("PYPARALLEL_ISA=") + wish + ", but this CPU only has " + name(best));
  }
  throw InvalidArgument(std::string("PYPARALLEL_ISA=") + wish + " is none of baseline, avx2, avx512");
}

}  // namespace

Isa active_isa() {
  static const Isa isa = choose_isa();
  return isa;
}

const char* name(Isa isa) {
  switch (isa) {
    case Isa::kBaseline:
      return "baseline";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
  }
  return "unknown";
}

}  // namespace pyparallel
