// Adam and AdamW on the CPU: the loop around adam_update per instruction set, then the list of tensors around the loop.
#include "kernels/adam.hpp"

#include <type_traits>

#include "core/blocks.hpp"
#include "core/isa.hpp"
#if PP_LISTS
#include <string>
#include <vector>

#include "core/error.hpp"
#include "core/ranges.hpp"
#include "core/thread_pool.hpp"
#endif

namespace pyparallel {
namespace PP_ISA {
namespace {

// Reads and writes each array once. The conversions of float and BFloat16 vectorise within the loop.
template <typename Param, typename Grad, bool kMaster, bool kAmsgrad>
void update_loop(const AdamScalars& s, const Grad* __restrict grad, Param* __restrict param, float* __restrict master,
                 float* __restrict exp_avg, float* __restrict exp_avg_sq, float* __restrict max_exp_avg_sq,
                 std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    float unused = 0.0f;
    float value = kMaster ? master[i] : to_float(param[i]);
    adam_update<kAmsgrad>(s, to_float(grad[i]), value, exp_avg[i], exp_avg_sq[i],
                          kAmsgrad ? max_exp_avg_sq[i] : unused);
    if constexpr (kMaster) master[i] = value;
    param[i] = from_float<Param>(value);
  }
}

template <typename Param, typename Grad, bool kMaster, bool kAmsgrad>
void update_range(const AdamTensor& t, std::int64_t begin, std::int64_t end, const AdamScalars& s) {
  update_loop<Param, Grad, kMaster, kAmsgrad>(
      s, static_cast<const Grad*>(t.grad) + begin, static_cast<Param*>(t.param) + begin,
      kMaster ? t.master + begin : nullptr, t.exp_avg + begin, t.exp_avg_sq + begin,
      kAmsgrad ? t.max_exp_avg_sq + begin : nullptr, end - begin);
}

// Float16 converts by intrinsics only, so blocks of it are widened into L1 and narrowed from there.
template <typename Grad, bool kMaster, bool kAmsgrad>
void update_float16_range(const AdamTensor& t, std::int64_t begin, std::int64_t end, const AdamScalars& s) {
  alignas(64) float grad_buffer[kBlock], param_buffer[kBlock];
  for (; begin < end; begin += kBlock) {
    const std::int64_t count = end - begin < kBlock ? end - begin : kBlock;
    Float16* const stored = static_cast<Float16*>(t.param) + begin;
    const float* const grad = as_floats(static_cast<const Grad*>(t.grad) + begin, grad_buffer, count);
    float* const param = kMaster ? t.master + begin : param_buffer;
    if (!kMaster) widen(stored, param_buffer, static_cast<std::size_t>(count));
    update_loop<float, float, false, kAmsgrad>(s, grad, param, nullptr, t.exp_avg + begin, t.exp_avg_sq + begin,
                                               kAmsgrad ? t.max_exp_avg_sq + begin : nullptr, count);
    narrow(param, stored, static_cast<std::size_t>(count));
  }
}

template <typename Param, typename Grad, bool kMaster, bool kAmsgrad>
void update(const AdamTensor& t, std::int64_t begin, std::int64_t end, const AdamScalars& s) {
  if constexpr (std::is_same_v<Param, Float16>)
    update_float16_range<Grad, kMaster, kAmsgrad>(t, begin, end, s);
  else
    update_range<Param, Grad, kMaster, kAmsgrad>(t, begin, end, s);
}

template <typename Param, typename Grad>
void update_typed(const AdamTensor& t, std::int64_t begin, std::int64_t end, const AdamScalars& s) {
  const bool master = sizeof(Param) == 2 && t.master != nullptr;
  if (t.max_exp_avg_sq == nullptr)
    master ? update<Param, Grad, true, false>(t, begin, end, s) : update<Param, Grad, false, false>(t, begin, end, s);
  else
    master ? update<Param, Grad, true, true>(t, begin, end, s) : update<Param, Grad, false, true>(t, begin, end, s);
}

}  // namespace

void adam_range(const AdamTensor& t, std::int64_t begin, std::int64_t end, DType param_dtype, DType grad_dtype,
                const AdamScalars& s) {
  const bool wide_grad = grad_dtype == DType::kFloat32;
  switch (param_dtype) {
    case DType::kBFloat16:
      return wide_grad ? update_typed<BFloat16, float>(t, begin, end, s)
                       : update_typed<BFloat16, BFloat16>(t, begin, end, s);
    case DType::kFloat16:
      return wide_grad ? update_typed<Float16, float>(t, begin, end, s)
                       : update_typed<Float16, Float16>(t, begin, end, s);
    default:
      return update_typed<float, float>(t, begin, end, s);
  }
}

}  // namespace PP_ISA
}  // namespace pyparallel

#if PP_LISTS
namespace pyparallel {

PP_DECLARE_PER_ISA(void adam_range(const AdamTensor&, std::int64_t begin, std::int64_t end, DType param_dtype,
                                   DType grad_dtype, const AdamScalars&))

namespace {

[[noreturn]] void refuse(std::int64_t i, const char* reason) {
  throw InvalidArgument("adam: tensor " + std::to_string(i) + reason);
}

void check_dtypes(DType param, DType grad) {
  const bool known = param == DType::kFloat32 || param == DType::kBFloat16 || param == DType::kFloat16;
  if (!known || (grad != param && grad != DType::kFloat32))
    throw InvalidArgument(std::string("adam: no kernel for ") + name(param) + " parameters with " + name(grad) +
                          " gradients");
}

}  // namespace

bool check_adam_tensors(const AdamTensor* tensors, std::int64_t count) {
  const AdamTensor* filled = nullptr;
  for (std::int64_t i = 0; i < count; ++i) {
    const AdamTensor& t = tensors[i];
    if (t.numel < 0) refuse(i, " has a negative size");
    if (t.step == nullptr) refuse(i, " has no step");
    if (t.numel == 0) continue;
    if (!t.param || !t.grad || !t.exp_avg || !t.exp_avg_sq) refuse(i, " has a null pointer (a meta, fake or DTensor?)");
    if (filled == nullptr) filled = &t;
    if ((t.max_exp_avg_sq == nullptr) != (filled->max_exp_avg_sq == nullptr))
      refuse(i, ": max_exp_avg_sq must be given for all tensors of the list or for none");
  }
  return filled != nullptr && filled->max_exp_avg_sq != nullptr;
}

void adam_cpu(const AdamTensor* tensors, std::int64_t count, DType param_dtype, DType grad_dtype,
              const AdamHyper& hyper, int threads) {
  check_dtypes(param_dtype, grad_dtype);
  check_adam_tensors(tensors, count);
  if (hyper.found_inf != nullptr && *hyper.found_inf != 0.0f) return;
  std::vector<AdamScalars> scalars(static_cast<std::size_t>(count));
  float previous_step = 0.0f;
  for (std::int64_t i = 0; i < count; ++i) {
    const float step = *tensors[i].step += 1.0f;
    scalars[i] = i > 0 && step == previous_step ? scalars[i - 1] : adam_scalars(hyper, step);
    previous_step = step;
  }
  const RangeTasks ranges(tensors, count, streaming_task_elements(tensors, count, threads));
  parallel_for(ranges.tasks(), threads, [&](std::int64_t task) {
    for (const Range* r = ranges.begin(task); r != ranges.end(task); ++r)
      PP_CALL_PER_ISA(adam_range, tensors[r->index], r->begin, r->end, param_dtype, grad_dtype, scalars[r->index]);
  });
}

}  // namespace pyparallel
#endif  // PP_LISTS
