// CPU variants: the same source is compiled once per instruction set into its own namespace and chosen at load by
// CPUID.
//
// A source named in CMakeLists.txt's PER_ISA list puts its code into `namespace PP_ISA` and includes no standard
// containers: a template instantiated there could replace the baseline's copy at link time and crash an older CPU.
#pragma once

#ifndef PP_ISA
#define PP_ISA isa_baseline
#endif

namespace pyparallel {

enum class Isa { kBaseline, kAvx2, kAvx512 };

// The best variant this CPU runs, or the one PYPARALLEL_ISA=baseline|avx2|avx512 asks for if the CPU has it. Arm's NEON
// is part of its baseline.
Isa active_isa();
const char* name(Isa isa);

}  // namespace pyparallel

#if defined(__x86_64__)
#define PP_DECLARE_PER_ISA(declaration) \
  namespace isa_baseline {              \
  declaration;                          \
  }                                     \
  namespace isa_avx2 {                  \
  declaration;                          \
  }                                     \
  namespace isa_avx512 {                \
  declaration;                          \
  }
#define PP_CALL_PER_ISA(function, ...)                              \
  (active_isa() == Isa::kAvx512 ? isa_avx512::function(__VA_ARGS__) \
   : active_isa() == Isa::kAvx2 ? isa_avx2::function(__VA_ARGS__)   \
                                : isa_baseline::function(__VA_ARGS__))
#else
#define PP_DECLARE_PER_ISA(declaration) \
  namespace isa_baseline {              \
  declaration;                          \
  }
#define PP_CALL_PER_ISA(function, ...) isa_baseline::function(__VA_ARGS__)
#endif
