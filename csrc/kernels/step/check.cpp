// What no optimizer kernel steps, refused before anything is written.
#include <string>

#include "core/error.hpp"
#include "kernels/step/contract.hpp"

namespace pyparallel {
namespace {

bool is_narrow(DType dtype) { return dtype == DType::kBFloat16 || dtype == DType::kFloat16; }

bool is_known(const StepTypes& types, bool any_grad) {
  if (types.param == DType::kFloat64)
    return types.grad == DType::kFloat64 && types.state == DType::kFloat64 && types.extra == Extra::kNone;
  const bool narrow = is_narrow(types.param);
  if (!narrow && types.param != DType::kFloat32) return false;
  if (types.grad != types.param && types.grad != DType::kFloat32 && !(any_grad && is_narrow(types.grad))) return false;
  if (types.state != DType::kFloat32 && types.state != DType::kBFloat16 && types.state != DType::kUInt8) return false;
  if (types.extra == Extra::kMaster) return narrow;
  return types.extra == Extra::kNone || types.param == DType::kBFloat16;
}

bool has_all_pointers(const StepTensor& t, const StepTypes& types, int states) {
  bool all = t.param != nullptr && t.grad != nullptr;
  for (int k = 0; k < states; ++k) all = all && t.states[k] != nullptr;
  const bool needs_extra = types.extra == Extra::kMaster || types.extra == Extra::kRemainder;
  return all && (!needs_extra || t.extra != nullptr);
}

}  // namespace

void check_step(const char* rule, const StepTensor* tensors, std::int64_t count, const StepTypes& types, int states,
                bool counts, bool any_grad) {
  if (!is_known(types, any_grad))
    throw InvalidArgument(std::string(rule) + ": no kernel for " + name(types.param) + " parameters with " +
                          name(types.grad) + " gradients, " + name(types.state) + " states and extra bits of kind " +
                          std::to_string(static_cast<int>(types.extra)));
  const auto refuse = [rule](std::int64_t i, const char* reason) {
    throw InvalidArgument(std::string(rule) + ": tensor " + std::to_string(i) + reason);
  };
  for (std::int64_t i = 0; i < count; ++i) {
    const StepTensor& t = tensors[i];
    if (t.numel < 0) refuse(i, " has a negative size");
    if (counts && t.step == nullptr) refuse(i, " has no step");
    if (t.numel > 0 && !has_all_pointers(t, types, states)) refuse(i, " has a null pointer (a meta, fake or DTensor?)");
  }
}

void check_factors(const char* rule, const StepTensor* tensors, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i)
    if (tensors[i].factor == nullptr)
      throw InvalidArgument(std::string(rule) + ": tensor " + std::to_string(i) + " has no factor");
}

}  // namespace pyparallel
