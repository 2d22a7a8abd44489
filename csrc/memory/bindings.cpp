// Bindings of memory: the pool over host memory.
#include "bindings.hpp"

#include "memory/host_upstream.hpp"
#include "memory/pool.hpp"
#include "memory/python_sites.hpp"

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

std::vector<memory::ListedSegment> list_of(Pool& pool) {
  const py::gil_scoped_release without_gil;
  return pool.list();
}

void observe(Pool& pool, std::shared_ptr<memory::Recorder> recorder) {
  const py::gil_scoped_release without_gil;
  pool.observe(std::move(recorder));
}

// In torch's words.
const char* name_of(memory::State state) {
  if (state == memory::State::kLive) return "active_allocated";
  return state == memory::State::kPending ? "active_pending_free" : "inactive";
}

// One tuple per segment: address, bytes, blocks; and per block: address, bytes, requested, serial, stream, site, state.
py::list as_list(const std::vector<memory::ListedSegment>& segments) {
  py::list result;
  for (const memory::ListedSegment& segment : segments) {
    py::list blocks;
    for (const memory::ListedBlock& block : segment.blocks)
      blocks.append(py::make_tuple(reinterpret_cast<std::uintptr_t>(block.data), block.num_bytes, block.requested,
                                   block.serial, block.stream, block.site, name_of(block.state)));
    result.append(py::make_tuple(reinterpret_cast<std::uintptr_t>(segment.data), segment.num_bytes, blocks));
  }
  return result;
}

}  // namespace

// The pool may wait for the device: never with the GIL. The caller's place is taken before.
void register_memory(py::module_& module) {
  register_recorder(module);
  const auto without_gil = py::call_guard<py::gil_scoped_release>();
  py::class_<Pool>(module, "Pool")
      .def(py::init([](const std::string& upstream, std::optional<std::uint64_t> limit) {
             return std::make_unique<Pool>(make_upstream(upstream), limit.value_or(Pool::kUnlimited));
           }),
           py::arg("upstream"), py::arg("limit"))
      .def(
          "allocate",
          [](Pool& pool, std::uint64_t num_bytes, memory::Stream stream) {
            const HeldSite site(pool.observer());
            const py::gil_scoped_release without_gil;
            return reinterpret_cast<std::uintptr_t>(pool.allocate(num_bytes, stream));
          },
          py::arg("num_bytes"), py::arg("stream"))
      .def(
          "use", [](Pool& pool, std::uintptr_t data, memory::Stream stream) { pool.use(pointer<void>(data), stream); },
          py::arg("data"), py::arg("stream"), without_gil)
      .def(
          "free",
          [](Pool& pool, std::uintptr_t data) {
            const HeldSite site(pool.observer());
            const py::gil_scoped_release without_gil;
            pool.free(pointer<void>(data));
          },
          py::arg("data"))
      .def("trim", &Pool::trim, without_gil)
      .def("blocks", [](Pool& pool) { return as_list(list_of(pool)); })
      .def("observed", &Pool::observed)
      .def("observe", &observe, py::arg("observer").none(true))
      .def("statistics", [](Pool& pool) { return as_dict(pool.statistics()); });
}

}  // namespace pyparallel
