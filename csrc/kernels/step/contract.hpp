// What every optimizer kernel takes: a list of tensors, how their values lie in memory, and what scales or skips a
// step.
#pragma once
#include <cstdint>

#include "core/dtype.hpp"

namespace pyparallel {

class DeviceTables;

inline constexpr int kMaxStates = 3;

// How a parameter of 16 bits keeps what its own bits cannot.
enum class Extra : std::uint8_t {
  kNone,        // it does not: rounded to nearest even
  kMaster,      // float32 copy, read and written instead of the parameter, which then is only written
  kRemainder,   // BFloat16 only: 16 bits that complete it to the float32 value
  kStochastic,  // BFloat16 only: rounded up or down at random, so that the expectation is exact
};

// One tensor of the list. All pointers are to dense memory of `numel` elements in the same order. Owned by the caller.
struct StepTensor {
  void* param;               // read (unless there is a master) and written
  const void* grad;          // read
  void* states[kMaxStates];  // read and written; null beyond what the rule keeps
  void* extra;               // float32 master or 16-bit remainder, or null
  float* step;     // steps taken, a float of its own: incremented unless the step is skipped. Null: not counted
  double* factor;  // null, or one double that the rule takes for this tensor alone (a trust ratio, say): written
                   // by the pass that measures, if the rule has one
  std::int64_t numel;
  std::uint32_t number;  // its place in the caller's list: part of what seeds random rounding
};

// The same for all tensors of a list. Arithmetic is float64 for float64 parameters, else float32. States: kFloat32,
// kBFloat16 or kUInt8 (see storage.hpp); kFloat64 exactly for float64 parameters.
struct StepTypes {
  DType param, grad, state;
  Extra extra = Extra::kNone;
};

// Read on the device when the step runs: nothing here synchronises. Pointers are null or to one float.
struct StepControl {
  const float* grad_scale = nullptr;  // gradients are divided by it
  const float* found_inf = nullptr;   // any value other than 0 skips the step
  const float* clip = nullptr;        // gradients are multiplied by it
  const float* lr = nullptr;          // replaces the hyperparameter of that name: a captured graph follows it
  bool maximize = false;
  std::uint32_t seed = 0;     // of everything that is rounded at random
  bool advance = true;        // false: another call of the same step has counted it already
  void* workspace = nullptr;  // CUDA, rules that measure: measure_workspace(count) bytes on the device, aligned to 8
};

// What both loops refuse with InvalidArgument: types without a kernel, negative sizes, null pointers with elements
// behind them. `states`: how many the rule keeps; `counts`: whether it needs `step`; `any_grad`: whether gradients may
// be of 16 bits whatever the parameters are.
void check_step(const char* rule, const StepTensor* tensors, std::int64_t count, const StepTypes& types, int states,
                bool counts, bool any_grad = false);

template <class Rule>
void check_step(const char* name, const StepTensor* tensors, std::int64_t count, const StepTypes& types) {
  check_step(name, tensors, count, types, Rule::kStates, Rule::kCounts, requires { Rule::kAnyGrad; });
}

// A rule that names kReadOnly leaves its states as they are.
template <class Rule>
inline constexpr bool kWritesStates = !requires { Rule::kReadOnly; };

// ---- measuring: rules that first need sums over each tensor ----

// Sums of squares that a measuring rule makes of each tensor, in double and in an order that depends on the sizes
// alone. From them follows the tensor's factor. Beside what every rule has:
//
//   kTerms                                           how many of the kSums it uses
//   measure(scalars, grad, param, state, terms)      per element: the states may change, the squares of terms are added
//   factor(hyper, step, sums, numel, factor before)  per tensor: the new factor, read by the step that follows
inline constexpr int kSums = 2;

// Chunks of a list on CUDA, beside one per tensor, and what their sums take: bytes of StepControl::workspace.
inline constexpr std::int64_t kMeasureChunks = 8192;
constexpr std::int64_t measure_workspace(std::int64_t count) {
  return count > 0 ? kSums * static_cast<std::int64_t>(sizeof(double)) * (kMeasureChunks + count) : 0;
}

// Refuses tensors without a factor.
void check_factors(const char* rule, const StepTensor* tensors, std::int64_t count);

// The rules of one optimizer, by what its hyperparameters turn on: variant(hyper) is the place of the one that is
// meant.
template <class... Rules>
struct Variants {};

// The two functions of an optimizer. Both step `count` tensors in one call; tensors with numel 0 only count their step.
// On the CPU `threads` >= 1 work and the call returns when done; on CUDA it is enqueued on `stream` (a cudaStream_t) of
// `device`, never synchronises, and throws CudaError. `tables`: null, or those of this list, told of its changes; with
// them a list of any length is one launch, without them one per ChunkTable.
#define PP_DECLARE_STEP(name, Hyper)                                                                          \
  void name##_cpu(const StepTensor* tensors, std::int64_t count, const StepTypes& types, const Hyper& hyper,  \
                  const StepControl& control, int threads);                                                   \
  void name##_cuda(const StepTensor* tensors, std::int64_t count, const StepTypes& types, const Hyper& hyper, \
                   const StepControl& control, int device, void* stream, DeviceTables* tables)

}  // namespace pyparallel
