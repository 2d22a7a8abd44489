// Bindings of memory: the pool over its upstreams.
#include "bindings.hpp"

#include "memory/pool.hpp"
#include "memory/replay_bindings.hpp"
#include "memory/upstreams.hpp"

namespace pyparallel {
namespace {

using memory::Pool;

py::dict as_dict(const memory::ClassStatistics& s) {
  py::dict result;
  result["live"] = s.live, result["live_peak"] = s.live_peak;
  result["allocated"] = s.allocated, result["freed"] = s.freed;
  result["allocations"] = s.allocations, result["frees"] = s.frees;
  return result;
}

py::dict as_dict(const memory::Idle& s) {
  py::dict result;
  result["hard"] = s.hard, result["soft"] = s.soft, result["stream"] = s.stream, result["cached"] = s.cached;
  return result;
}

py::dict as_dict(const memory::Statistics& s) {
  py::dict result;
  result["live"] = s.live, result["live_peak"] = s.live_peak, result["requested"] = s.requested;
  result["reserved"] = s.reserved, result["reserved_peak"] = s.reserved_peak, result["pending"] = s.pending;
  result["free"] = s.free, result["largest_hole"] = s.largest_hole, result["segments"] = s.segments;
  result["allocations"] = s.allocations, result["frees"] = s.frees;
  result["upstream_allocations"] = s.upstream_allocations, result["upstream_releases"] = s.upstream_releases;
  result["cross_stream_reuses"] = s.cross_stream_reuses, result["events"] = s.events;
  result["small"] = as_dict(s.by_class[0]), result["large"] = as_dict(s.by_class[1]);
  result["idle_at_peak"] = as_dict(s.idle_at_peak);
  return result;
}

py::list as_list(const std::vector<memory::StreamStatistics>& streams) {
  py::list result;
  for (const memory::StreamStatistics& s : streams) {
    py::dict entry;
    entry["stream"] = s.stream, entry["live"] = s.live, entry["free"] = s.free;
    entry["largest_hole"] = s.largest_hole, entry["events"] = s.events;
    result.append(entry);
  }
  return result;
}

// The pool's lock is never waited for with the GIL: who holds it may wait for the device.
template <class Call>
auto released(const Call& call) {
  const py::gil_scoped_release release;
  return call();
}

// The pool calls it without the GIL, and may be the last to hold it.
std::shared_ptr<Pool::FailureCallback> callback_of(const py::object& function) {
  if (function.is_none()) return nullptr;
  auto held = std::shared_ptr<py::object>(new py::object(function), [](py::object* object) {
    const py::gil_scoped_acquire acquire;
    delete object;
  });
  return std::make_shared<Pool::FailureCallback>([held](std::uint64_t num_bytes) {
    const py::gil_scoped_acquire acquire;
    return (*held)(num_bytes).cast<bool>();
  });
}

}  // namespace

// The pool may wait for the device: never with the GIL.
void register_memory(py::module_& module) {
  const auto without_gil = py::call_guard<py::gil_scoped_release>();
  py::class_<Pool>(module, "Pool")
      .def(py::init([](const std::string& upstream, int device, std::optional<std::uint64_t> limit, bool for_graph) {
             return std::make_unique<Pool>(memory::make_upstream(upstream, device), limit.value_or(Pool::kUnlimited),
                                           for_graph ? memory::Keep::kAlways : memory::Keep::kUntilShort);
           }),
           py::arg("upstream"), py::arg("device"), py::arg("limit"), py::arg("for_graph"))
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
      .def("end_stream", &Pool::end_stream, py::arg("stream"), without_gil)
      .def(
          "locate",
          [](Pool& pool, std::uintptr_t data) -> std::optional<std::pair<int, std::uint64_t>> {
            const auto place = pool.locate(pointer<void>(data));
            return place ? std::make_optional(std::make_pair(place->segment->fd(), place->offset)) : std::nullopt;
          },
          py::arg("data"), without_gil)
      .def(
          "on_failure",
          [](Pool& pool, const py::object& function) {
            auto callback = callback_of(function);
            released([&] { pool.on_failure(std::move(callback)); });
          },
          py::arg("function"))
      .def("trim", &Pool::trim, without_gil)
      .def("statistics", [](Pool& pool) { return as_dict(released([&] { return pool.statistics(); })); })
      .def("stream_statistics", [](Pool& pool) { return as_list(released([&] { return pool.stream_statistics(); })); });
  memory::register_replay(module);
}

}  // namespace pyparallel
