// Bindings of memory: the pool over host memory.
#include "bindings.hpp"

#include "memory/host_upstream.hpp"
#include "memory/pool.hpp"
#include "memory/replay_bindings.hpp"

namespace pyparallel {
namespace {

using memory::Pool;

std::unique_ptr<memory::Upstream> make_upstream(const std::string& name) {
  if (name == "host") return std::make_unique<memory::HostUpstream>();
  throw InvalidArgument("upstream '" + name + "' is none of host");
}

py::dict as_dict(const memory::Statistics& s) {
  py::dict result;
  result["live"] = s.live, result["live_peak"] = s.live_peak, result["requested"] = s.requested;
  result["reserved"] = s.reserved, result["reserved_peak"] = s.reserved_peak, result["pending"] = s.pending;
  result["largest_hole"] = s.largest_hole, result["segments"] = s.segments;
  result["allocations"] = s.allocations, result["frees"] = s.frees;
  result["upstream_allocations"] = s.upstream_allocations, result["upstream_releases"] = s.upstream_releases;
  result["cross_stream_reuses"] = s.cross_stream_reuses, result["events"] = s.events;
  return result;
}

}  // namespace

// The pool may wait for the device: never with the GIL.
void register_memory(py::module_& module) {
  const auto without_gil = py::call_guard<py::gil_scoped_release>();
  py::class_<Pool>(module, "Pool")
      .def(py::init([](const std::string& upstream, std::optional<std::uint64_t> limit) {
             return std::make_unique<Pool>(make_upstream(upstream), limit.value_or(Pool::kUnlimited));
           }),
           py::arg("upstream"), py::arg("limit"))
      .def(
          "allocate",
          [](Pool& pool, std::uint64_t num_bytes, memory::Stream stream) {
            return reinterpret_cast<std::uintptr_t>(pool.allocate(num_bytes, stream));
          },
          py::arg("num_bytes"), py::arg("stream"), without_gil)
      .def(
          "use", [](Pool& pool, std::uintptr_t data, memory::Stream stream) { pool.use(pointer<void>(data), stream); },
          py::arg("data"), py::arg("stream"), without_gil)
      .def(
          "free", [](Pool& pool, std::uintptr_t data) { pool.free(pointer<void>(data)); }, py::arg("data"), without_gil)
      .def("trim", &Pool::trim, without_gil)
      .def("statistics", [](Pool& pool) { return as_dict(pool.statistics()); });
  memory::register_replay(module);
}

}  // namespace pyparallel
