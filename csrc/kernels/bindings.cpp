// Bindings of the kernels: lists of addresses become tables, device -1 is the CPU.
#include "bindings.hpp"

#include <vector>

#include "core/error.hpp"
#include "kernels/adam.hpp"
#include "kernels/pack.hpp"
#include "kernels/reduce.hpp"

namespace pyparallel {
namespace {

using Addresses = std::vector<std::uintptr_t>;
using Sizes = std::vector<std::int64_t>;

#if !PYPARALLEL_CUDA
[[noreturn]] void no_cuda() {
  throw InvalidArgument("this build of pyparallel has no CUDA kernels (see pyparallel.features()): build it with nvcc");
}
#endif

void check_lengths(const char* what, std::size_t expected, std::initializer_list<std::size_t> lengths) {
  for (std::size_t length : lengths)
    if (length != expected)
      throw InvalidArgument(std::string(what) + ": lists of different lengths: " + std::to_string(expected) + " and " +
                            std::to_string(length));
}

// An optional column: empty, or as long as the others.
std::uintptr_t at_or_null(const Addresses& column, std::size_t i) { return column.empty() ? 0 : column[i]; }

class AdamTable {
 public:
  AdamTable(const Addresses& params, const Addresses& grads, const Addresses& exp_avgs, const Addresses& exp_avg_sqs,
            const Addresses& max_exp_avg_sqs, const Addresses& masters, const Addresses& steps, const Sizes& numels,
            int param_dtype, int grad_dtype)
      : param_dtype_(static_cast<DType>(param_dtype)), grad_dtype_(static_cast<DType>(grad_dtype)) {
    check_lengths("AdamTable", numels.size(),
                  {params.size(), grads.size(), exp_avgs.size(), exp_avg_sqs.size(), steps.size()});
    if (!max_exp_avg_sqs.empty()) check_lengths("AdamTable", numels.size(), {max_exp_avg_sqs.size()});
    if (!masters.empty()) check_lengths("AdamTable", numels.size(), {masters.size()});
    for (std::size_t i = 0; i < numels.size(); ++i)
      tensors_.push_back({pointer<void>(params[i]), pointer<const void>(grads[i]), pointer<float>(exp_avgs[i]),
                          pointer<float>(exp_avg_sqs[i]), pointer<float>(at_or_null(max_exp_avg_sqs, i)),
                          pointer<float>(at_or_null(masters, i)), pointer<float>(steps[i]), numels[i]});
  }

  void set_grads(const Addresses& grads) {
    check_lengths("AdamTable", tensors_.size(), {grads.size()});
    for (std::size_t i = 0; i < grads.size(); ++i) tensors_[i].grad = pointer<const void>(grads[i]);
  }

  void step(double lr, double beta1, double beta2, double eps, double weight_decay, bool decoupled, bool maximize,
            std::uintptr_t grad_scale, std::uintptr_t found_inf, int device, std::uintptr_t stream, int threads) const {
    const AdamHyper hyper{lr,
                          beta1,
                          beta2,
                          eps,
                          weight_decay,
                          decoupled,
                          maximize,
                          pointer<const float>(grad_scale),
                          pointer<const float>(found_inf)};
    const auto count = static_cast<std::int64_t>(tensors_.size());
    py::gil_scoped_release release;
    if (device < 0) return adam_cpu(tensors_.data(), count, param_dtype_, grad_dtype_, hyper, threads);
#if PYPARALLEL_CUDA
    adam_cuda(tensors_.data(), count, param_dtype_, grad_dtype_, hyper, device, pointer<void>(stream));
#else
    (void)stream;
    no_cuda();
#endif
  }

 private:
  std::vector<AdamTensor> tensors_;
  DType param_dtype_, grad_dtype_;
};

std::vector<PackItem> pack_items(const Addresses& tensors, const Sizes& offsets, const Sizes& numels) {
  check_lengths("pack", numels.size(), {tensors.size(), offsets.size()});
  std::vector<PackItem> items;
  items.reserve(numels.size());
  for (std::size_t i = 0; i < numels.size(); ++i) items.push_back({pointer<void>(tensors[i]), offsets[i], numels[i]});
  return items;
}

void pack(const Addresses& tensors, const Sizes& offsets, const Sizes& numels, int tensor_dtype, std::uintptr_t flat,
          int flat_dtype, double scale, bool back, int device, std::uintptr_t stream, int threads) {
  const std::vector<PackItem> items = pack_items(tensors, offsets, numels);
  const auto count = static_cast<std::int64_t>(items.size());
  const auto from = static_cast<DType>(tensor_dtype), to = static_cast<DType>(flat_dtype);
  void* const buffer = pointer<void>(flat);
  py::gil_scoped_release release;
  if (device < 0)
    return back ? unpack_cpu(items.data(), count, from, buffer, to, scale, threads)
                : pack_cpu(items.data(), count, from, buffer, to, scale, threads);
#if PYPARALLEL_CUDA
  void* const queue = pointer<void>(stream);
  back ? unpack_cuda(items.data(), count, from, buffer, to, scale, device, queue)
       : pack_cuda(items.data(), count, from, buffer, to, scale, device, queue);
#else
  (void)stream;
  no_cuda();
#endif
}

std::vector<ReduceItem> reduce_items(const Addresses& tensors, const Sizes& numels) {
  check_lengths("sum_of_squares", numels.size(), {tensors.size()});
  std::vector<ReduceItem> items;
  items.reserve(numels.size());
  for (std::size_t i = 0; i < numels.size(); ++i) items.push_back({pointer<const void>(tensors[i]), numels[i]});
  return items;
}

void sum_of_squares(const Addresses& tensors, const Sizes& numels, int dtype, std::uintptr_t result,
                    std::uintptr_t workspace, int device, std::uintptr_t stream, int threads) {
  const std::vector<ReduceItem> items = reduce_items(tensors, numels);
  const auto count = static_cast<std::int64_t>(items.size());
  py::gil_scoped_release release;
  if (device < 0)
    return sum_of_squares_cpu(items.data(), count, static_cast<DType>(dtype), pointer<double>(result), threads);
#if PYPARALLEL_CUDA
  sum_of_squares_cuda(items.data(), count, static_cast<DType>(dtype), pointer<double>(result), pointer<void>(workspace),
                      device, pointer<void>(stream));
#else
  (void)workspace, (void)stream;
  no_cuda();
#endif
}

// Bytes of device memory that sum_of_squares needs beside its result; 0 on the CPU.
std::int64_t workspace_bytes(const Addresses& tensors, const Sizes& numels, int device) {
  if (device < 0) return 0;
#if PYPARALLEL_CUDA
  const std::vector<ReduceItem> items = reduce_items(tensors, numels);
  return sum_of_squares_workspace(items.data(), static_cast<std::int64_t>(items.size()));
#else
  (void)tensors, (void)numels;
  no_cuda();
#endif
}

}  // namespace

void register_kernels(py::module_& module) {
  py::class_<AdamTable>(module, "AdamTable")
      .def(py::init<const Addresses&, const Addresses&, const Addresses&, const Addresses&, const Addresses&,
                    const Addresses&, const Addresses&, const Sizes&, int, int>(),
           py::arg("params"), py::arg("grads"), py::arg("exp_avgs"), py::arg("exp_avg_sqs"), py::arg("max_exp_avg_sqs"),
           py::arg("masters"), py::arg("steps"), py::arg("numels"), py::arg("param_dtype"), py::arg("grad_dtype"))
      .def("set_grads", &AdamTable::set_grads, py::arg("grads"))
      .def("step", &AdamTable::step, py::arg("lr"), py::arg("beta1"), py::arg("beta2"), py::arg("eps"),
           py::arg("weight_decay"), py::arg("decoupled"), py::arg("maximize"), py::arg("grad_scale"),
           py::arg("found_inf"), py::arg("device"), py::arg("stream"), py::arg("threads"));
  module.def("pack", &pack, py::arg("tensors"), py::arg("offsets"), py::arg("numels"), py::arg("tensor_dtype"),
             py::arg("flat"), py::arg("flat_dtype"), py::arg("scale"), py::arg("back"), py::arg("device"),
             py::arg("stream"), py::arg("threads"));
  module.def("sum_of_squares", &sum_of_squares, py::arg("tensors"), py::arg("numels"), py::arg("dtype"),
             py::arg("result"), py::arg("workspace"), py::arg("device"), py::arg("stream"), py::arg("threads"));
  module.def("sum_of_squares_workspace", &workspace_bytes, py::arg("tensors"), py::arg("numels"), py::arg("device"));
}

}  // namespace pyparallel
