// Bindings of replays: a history in numpy arrays through a policy.
#include "memory/replay_bindings.hpp"

#include <pybind11/numpy.h>

#include "bindings.hpp"
#include "core/error.hpp"
#include "memory/replay.hpp"

namespace pyparallel::memory {
namespace {

template <class Type>
using Array = py::array_t<Type, py::array::c_style>;

bool run(Replay& replay, const Array<std::int64_t>& block, const Array<std::int64_t>& num_bytes,
         const Array<std::uint64_t>& stream) {
  if (block.ndim() != 1 || num_bytes.ndim() != 1 || stream.ndim() != 1 || block.size() != num_bytes.size() ||
      block.size() != stream.size())
    throw InvalidArgument("replay: block, num_bytes and stream are not of one dimension and length");
  const Events events = {block.data(), num_bytes.data(), stream.data(), static_cast<std::uint64_t>(block.size())};
  WithoutGil without_gil;
  return replay.run(events);
}

}  // namespace

void register_replay(py::module_& module) {
  module.def("replay_policies", &policy_names);
  py::class_<Replay>(module, "Replay")
      .def(py::init([](const std::string& policy, std::optional<std::uint64_t> device) {
             return std::make_unique<Replay>(make_policy(policy, device.value_or(~std::uint64_t{0})));
           }),
           py::arg("policy"), py::arg("device"))
      .def("run", &run, py::arg("block").noconvert(), py::arg("num_bytes").noconvert(), py::arg("stream").noconvert())
      .def_property_readonly("peak_requested", &Replay::peak_requested)
      .def_property_readonly("peak_reserved", &Replay::peak_reserved)
      .def_property_readonly("growths", &Replay::growths)
      .def_property_readonly("nanoseconds", &Replay::nanoseconds);
}

}  // namespace pyparallel::memory
