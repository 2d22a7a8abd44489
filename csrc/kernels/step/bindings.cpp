// Bindings of the optimizer kernels: one table for all of them, one step() per kind of hyperparameters.
#include "bindings.hpp"

#include <vector>

#include "core/error.hpp"
#include "kernels/adagrad.hpp"
#include "kernels/adam.hpp"
#include "kernels/lion.hpp"
#include "kernels/rmsprop.hpp"
#include "kernels/sgd.hpp"
#include "kernels/step/storage.hpp"

namespace pyparallel {
namespace {

using Addresses = std::vector<std::uintptr_t>;
using Sizes = std::vector<std::int64_t>;

// Lists of addresses as the kernels take them. An empty column is null for all tensors.
class StepTable {
 public:
  StepTable(const Addresses& params, const Addresses& grads, const std::vector<Addresses>& states,
            const Addresses& extras, const Addresses& steps, const Addresses& factors, const Sizes& numels,
            int param_dtype, int grad_dtype, int state_dtype, Extra extra)
      : types_{static_cast<DType>(param_dtype), static_cast<DType>(grad_dtype), static_cast<DType>(state_dtype), extra},
        tensors_(numels.size()) {
    if (states.size() > kMaxStates) throw InvalidArgument("StepTable: more states than a kernel takes");
    for (std::size_t i = 0; i < numels.size(); ++i) {
      tensors_[i].numel = numels[i];
      tensors_[i].number = static_cast<std::uint32_t>(i);
    }
    fill(params, [](StepTensor& t) -> auto& { return t.param; });
    fill(grads, [](StepTensor& t) -> auto& { return t.grad; });
    for (std::size_t k = 0; k < states.size(); ++k)
      fill(states[k], [k](StepTensor& t) -> auto& { return t.states[k]; });
    fill(extras, [](StepTensor& t) -> auto& { return t.extra; });
    fill(steps, [](StepTensor& t) -> auto& { return t.step; });
    fill(factors, [](StepTensor& t) -> auto& { return t.factor; });
  }

  void set_grads(const Addresses& grads) {
    fill(grads, [](StepTensor& t) -> auto& { return t.grad; });
  }

  using Count = std::int64_t;
  template <class Hyper>
  using OnCpu = void (*)(const StepTensor*, Count, const StepTypes&, const Hyper&, const StepControl&, int threads);
  template <class Hyper>
  using OnCuda = void (*)(const StepTensor*, Count, const StepTypes&, const Hyper&, const StepControl&, int device,
                          void* stream);

  template <class Hyper, OnCpu<Hyper> kCpu, OnCuda<Hyper> kCuda>
  void step(const Hyper& hyper, const StepControl& control, int device, std::uintptr_t stream, int threads) const {
    const auto count = static_cast<Count>(tensors_.size());
    py::gil_scoped_release release;
    if (device < 0) return kCpu(tensors_.data(), count, types_, hyper, control, threads);
    kCuda(tensors_.data(), count, types_, hyper, control, device, pointer<void>(stream));
  }

 private:
  template <class Member>
  void fill(const Addresses& column, const Member& member) {
    if (column.empty()) return;
    if (column.size() != tensors_.size())
      throw InvalidArgument("StepTable: lists of different lengths: " + std::to_string(tensors_.size()) + " and " +
                            std::to_string(column.size()));
    for (std::size_t i = 0; i < column.size(); ++i) {
      auto& place = member(tensors_[i]);
      place = reinterpret_cast<std::remove_reference_t<decltype(place)>>(column[i]);
    }
  }

  StepTypes types_;
  std::vector<StepTensor> tensors_;
};

#if !PYPARALLEL_CUDA
template <class Hyper>
void without_cuda(const StepTensor*, std::int64_t, const StepTypes&, const Hyper&, const StepControl&, int, void*) {
  no_cuda();
}
#define PP_ON_CUDA(name, Hyper) without_cuda<Hyper>
#else
#define PP_ON_CUDA(name, Hyper) name##_cuda
#endif

using Table = py::class_<StepTable>;

template <class Hyper, StepTable::OnCpu<Hyper> kCpu, StepTable::OnCuda<Hyper> kCuda>
void add_step(Table& table) {
  table.def("step", &StepTable::step<Hyper, kCpu, kCuda>, py::arg("hyper"), py::arg("control"), py::arg("device"),
            py::arg("stream"), py::arg("threads"));
}

void register_table(py::module_& module) {
  py::enum_<Extra>(module, "Extra")
      .value("none", Extra::kNone)
      .value("master", Extra::kMaster)
      .value("remainder", Extra::kRemainder)
      .value("stochastic", Extra::kStochastic);
  py::class_<StepControl>(module, "StepControl")
      .def(py::init([](std::uintptr_t grad_scale, std::uintptr_t found_inf, std::uintptr_t clip, std::uintptr_t lr,
                       bool maximize, std::uint32_t seed) {
             return StepControl{pointer<const float>(grad_scale),
                                pointer<const float>(found_inf),
                                pointer<const float>(clip),
                                pointer<const float>(lr),
                                maximize,
                                seed};
           }),
           py::arg("grad_scale"), py::arg("found_inf"), py::arg("clip"), py::arg("lr"), py::arg("maximize"),
           py::arg("seed"));
  Table table(module, "StepTable");
  table
      .def(py::init<const Addresses&, const Addresses&, const std::vector<Addresses>&, const Addresses&,
                    const Addresses&, const Addresses&, const Sizes&, int, int, int, Extra>(),
           py::arg("params"), py::arg("grads"), py::arg("states"), py::arg("extras"), py::arg("steps"),
           py::arg("factors"), py::arg("numels"), py::arg("param_dtype"), py::arg("grad_dtype"), py::arg("state_dtype"),
           py::arg("extra"))
      .def("set_grads", &StepTable::set_grads, py::arg("grads"));
  add_step<AdamHyper, adam_cpu, PP_ON_CUDA(adam, AdamHyper)>(table);
  add_step<SgdHyper, sgd_cpu, PP_ON_CUDA(sgd, SgdHyper)>(table);
  add_step<AdagradHyper, adagrad_cpu, PP_ON_CUDA(adagrad, AdagradHyper)>(table);
  add_step<RmspropHyper, rmsprop_cpu, PP_ON_CUDA(rmsprop, RmspropHyper)>(table);
  add_step<LionHyper, lion_cpu, PP_ON_CUDA(lion, LionHyper)>(table);
}

}  // namespace

void register_step(py::module_& module) {
  py::class_<AdamHyper>(module, "AdamHyper")
      .def(py::init([](double lr, double beta1, double beta2, double eps, double weight_decay, bool decoupled,
                       bool amsgrad) { return AdamHyper{lr, beta1, beta2, eps, weight_decay, decoupled, amsgrad}; }),
           py::arg("lr"), py::arg("beta1"), py::arg("beta2"), py::arg("eps"), py::arg("weight_decay"),
           py::arg("decoupled"), py::arg("amsgrad"));
  py::class_<SgdHyper>(module, "SgdHyper")
      .def(py::init([](double lr, double momentum, double dampening, double weight_decay, bool nesterov) {
             return SgdHyper{lr, momentum, dampening, weight_decay, nesterov};
           }),
           py::arg("lr"), py::arg("momentum"), py::arg("dampening"), py::arg("weight_decay"), py::arg("nesterov"));
  py::class_<AdagradHyper>(module, "AdagradHyper")
      .def(py::init([](double lr, double lr_decay, double weight_decay, double eps) {
             return AdagradHyper{lr, lr_decay, weight_decay, eps};
           }),
           py::arg("lr"), py::arg("lr_decay"), py::arg("weight_decay"), py::arg("eps"));
  py::class_<RmspropHyper>(module, "RmspropHyper")
      .def(py::init([](double lr, double alpha, double eps, double weight_decay, double momentum, bool centered) {
             return RmspropHyper{lr, alpha, eps, weight_decay, momentum, centered};
           }),
           py::arg("lr"), py::arg("alpha"), py::arg("eps"), py::arg("weight_decay"), py::arg("momentum"),
           py::arg("centered"));
  py::class_<LionHyper>(module, "LionHyper")
      .def(py::init([](double lr, double beta1, double beta2, double weight_decay) {
             return LionHyper{lr, beta1, beta2, weight_decay};
           }),
           py::arg("lr"), py::arg("beta1"), py::arg("beta2"), py::arg("weight_decay"));
  register_table(module);
  module.def("moment_bytes", [](std::int64_t numel) { return moment_bytes(numel); }, py::arg("numel"));
}

}  // namespace pyparallel
