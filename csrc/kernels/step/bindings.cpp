// Bindings of the optimizer kernels: one table for all of them, one step() per kind of hyperparameters.
#include "bindings.hpp"

#include <vector>

#include "core/device_tables.hpp"
#include "core/error.hpp"
#include "kernels/adafactor.hpp"
#include "kernels/adagrad.hpp"
#include "kernels/adam.hpp"
#include "kernels/lamb.hpp"
#include "kernels/lars.hpp"
#include "kernels/lion.hpp"
#include "kernels/muon.hpp"
#include "kernels/novograd.hpp"
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

  void set_states(std::size_t k, const Addresses& states) {
    if (k >= kMaxStates) throw InvalidArgument("StepTable: more states than a kernel takes");
    fill(states, [k](StepTensor& t) -> auto& { return t.states[k]; });
  }

  using Count = std::int64_t;
  template <class Hyper>
  using OnCpu = void (*)(const StepTensor*, Count, const StepTypes&, const Hyper&, const StepControl&, int threads);
  template <class Hyper>
  using OnCuda = void (*)(const StepTensor*, Count, const StepTypes&, const Hyper&, const StepControl&, int device,
                          void* stream, DeviceTables*);

  template <class Hyper, OnCpu<Hyper> kCpu, OnCuda<Hyper> kCuda>
  void step(const Hyper& hyper, const StepControl& control, int device, std::uintptr_t stream, int threads) {
    const auto count = static_cast<Count>(tensors_.size());
    WithoutGil release;
    if (device < 0) return kCpu(tensors_.data(), count, types_, hyper, control, threads);
#if PYPARALLEL_CUDA
    kCuda(tensors_.data(), count, types_, hyper, control, device, pointer<void>(stream), &tables_);
#else
    kCuda(tensors_.data(), count, types_, hyper, control, device, pointer<void>(stream), nullptr);
#endif
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
#if PYPARALLEL_CUDA
    tables_.change();
#endif
  }

  StepTypes types_;
  std::vector<StepTensor> tensors_;
#if PYPARALLEL_CUDA
  DeviceTables tables_;  // of tensors_
#endif
};

#if !PYPARALLEL_CUDA
template <class Hyper>
void without_cuda(const StepTensor*, std::int64_t, const StepTypes&, const Hyper&, const StepControl&, int, void*,
                  DeviceTables*) {
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
                       bool maximize, std::uint32_t seed, bool advance, std::uintptr_t workspace) {
             return StepControl{pointer<const float>(grad_scale),
                                pointer<const float>(found_inf),
                                pointer<const float>(clip),
                                pointer<const float>(lr),
                                maximize,
                                seed,
                                advance,
                                pointer<void>(workspace)};
           }),
           py::arg("grad_scale"), py::arg("found_inf"), py::arg("clip"), py::arg("lr"), py::arg("maximize"),
           py::arg("seed"), py::arg("advance") = true, py::arg("workspace") = 0);
  Table table(module, "StepTable");
  table
      .def(py::init<const Addresses&, const Addresses&, const std::vector<Addresses>&, const Addresses&,
                    const Addresses&, const Addresses&, const Sizes&, int, int, int, Extra>(),
           py::arg("params"), py::arg("grads"), py::arg("states"), py::arg("extras"), py::arg("steps"),
           py::arg("factors"), py::arg("numels"), py::arg("param_dtype"), py::arg("grad_dtype"), py::arg("state_dtype"),
           py::arg("extra"))
      .def("set_grads", &StepTable::set_grads, py::arg("grads"))
      .def("set_states", &StepTable::set_states, py::arg("k"), py::arg("states"));
  add_step<AdamHyper, adam_cpu, PP_ON_CUDA(adam, AdamHyper)>(table);
  add_step<SgdHyper, sgd_cpu, PP_ON_CUDA(sgd, SgdHyper)>(table);
  add_step<AdagradHyper, adagrad_cpu, PP_ON_CUDA(adagrad, AdagradHyper)>(table);
  add_step<RmspropHyper, rmsprop_cpu, PP_ON_CUDA(rmsprop, RmspropHyper)>(table);
  add_step<LionHyper, lion_cpu, PP_ON_CUDA(lion, LionHyper)>(table);
  add_step<LambHyper, lamb_cpu, PP_ON_CUDA(lamb, LambHyper)>(table);
  add_step<LarsHyper, lars_cpu, PP_ON_CUDA(lars, LarsHyper)>(table);
  add_step<NovogradHyper, novograd_cpu, PP_ON_CUDA(novograd, NovogradHyper)>(table);
  add_step<AdafactorHyper, adafactor_cpu, PP_ON_CUDA(adafactor, AdafactorHyper)>(table);
  add_step<MuonHyper, muon_cpu, PP_ON_CUDA(muon, MuonHyper)>(table);
}

void register_measuring(py::module_& module) {
  py::class_<LambHyper>(module, "LambHyper")
      .def(py::init([](double lr, double beta1, double beta2, double eps, double weight_decay, double trust_clip,
                       bool bias_correction, bool adapt) {
             return LambHyper{lr, beta1, beta2, eps, weight_decay, trust_clip, bias_correction, adapt};
           }),
           py::arg("lr"), py::arg("beta1"), py::arg("beta2"), py::arg("eps"), py::arg("weight_decay"),
           py::arg("trust_clip"), py::arg("bias_correction"), py::arg("adapt"));
  py::class_<LarsHyper>(module, "LarsHyper")
      .def(py::init([](double lr, double momentum, double dampening, double weight_decay, double trust_coefficient,
                       double eps, bool nesterov, bool adapt) {
             return LarsHyper{lr, momentum, dampening, weight_decay, trust_coefficient, eps, nesterov, adapt};
           }),
           py::arg("lr"), py::arg("momentum"), py::arg("dampening"), py::arg("weight_decay"),
           py::arg("trust_coefficient"), py::arg("eps"), py::arg("nesterov"), py::arg("adapt"));
  py::class_<NovogradHyper>(module, "NovogradHyper")
      .def(py::init([](double lr, double beta1, double beta2, double eps, double weight_decay, bool grad_averaging) {
             return NovogradHyper{lr, beta1, beta2, eps, weight_decay, grad_averaging};
           }),
           py::arg("lr"), py::arg("beta1"), py::arg("beta2"), py::arg("eps"), py::arg("weight_decay"),
           py::arg("grad_averaging"));
  py::class_<AdafactorHyper>(module, "AdafactorHyper")
      .def(py::init([](double lr, double eps1, double eps2, double d, double weight_decay) {
             return AdafactorHyper{lr, eps1, eps2, d, weight_decay};
           }),
           py::arg("lr"), py::arg("eps1"), py::arg("eps2"), py::arg("d"), py::arg("weight_decay"));
  module.def("measure_workspace", &measure_workspace, py::arg("count"));
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
  py::class_<MuonHyper>(module, "MuonHyper")
      .def(py::init([](double lr, double momentum, double weight_decay, bool nesterov, bool apply) {
             return MuonHyper{lr, momentum, weight_decay, nesterov, apply};
           }),
           py::arg("lr"), py::arg("momentum"), py::arg("weight_decay"), py::arg("nesterov"), py::arg("apply"));
  register_measuring(module);
  register_table(module);
  module.def("moment_bytes", [](std::int64_t numel) { return moment_bytes(numel); }, py::arg("numel"));
}

}  // namespace pyparallel
