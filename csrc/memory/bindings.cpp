// Bindings of memory: the pool over its upstreams.
#include "bindings.hpp"

#include <sstream>

#include "memory/planned_bindings.hpp"
#include "memory/pool.hpp"
#include "memory/pool_conversions.hpp"
#include "memory/python_sites.hpp"
#include "memory/repetition.hpp"
#include "memory/replay_bindings.hpp"
#include "memory/upstreams.hpp"
#include "memory/views.hpp"

namespace pyparallel {
namespace {

using memory::Pool;

// The pool's lock is never waited for with the GIL: who holds it may wait for the device.
template <class Call>
auto released(const Call& call) {
  const WithoutGil release;
  return call();
}

// Its end waits for the device, too.
std::shared_ptr<Pool> ended_without_gil(std::unique_ptr<memory::Upstream> upstream, std::uint64_t limit,
                                        memory::Keep keep) {
  const auto end = [](Pool* pool) {
    if (PyGILState_Check() == 0) return delete pool;
    const WithoutGil release;
    delete pool;
  };
  return {new Pool(std::move(upstream), limit, keep), end};
}

// The pool calls it without the GIL, and may be the last to hold it.
std::shared_ptr<Pool::FailureCallback> callback_of(const py::object& function) {
  if (function.is_none()) return nullptr;
  auto held = std::shared_ptr<py::object>(new py::object(function), [](py::object* object) {
    const WithGil acquire;
    delete object;
  });
  return std::make_shared<Pool::FailureCallback>([held](std::uint64_t num_bytes) {
    const WithGil acquire;
    return (*held)(num_bytes).cast<bool>();
  });
}

// Its caller has given the block up (Block.right_to_free) before it counts views here, and who makes a view (dlpack())
// looks afterwards whether the block was given up. Of the two at least one sees what the other did.
void free_unviewed(Pool& pool, std::uintptr_t data) {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (const int views = memory::Views::of_process().count(pointer<void>(data)); views > 0) {
    std::ostringstream message;
    message << "free: " << pointer<void>(data) << " is still viewed by " << views << " tensors or arrays";
    throw InvalidArgument(message.str());
  }
  pool.free(pointer<void>(data));
}

void observe(Pool& pool, std::shared_ptr<memory::Recorder> recorder) {
  const WithoutGil without_gil;
  pool.observe(std::move(recorder));
}

std::shared_ptr<memory::Recorder> last_observer(Pool& pool) {
  return std::dynamic_pointer_cast<memory::Recorder>(pool.last_observer());
}

}  // namespace

// The pool may wait for the device: never with the GIL. The caller's place is taken before.
void register_memory(py::module_& module) {
  register_recorder(module);
  const auto without_gil = py::call_guard<WithoutGil>();
  py::class_<Pool, std::shared_ptr<Pool>>(module, "Pool")
      .def(py::init([](const std::string& upstream, int device, std::optional<std::uint64_t> limit, bool for_graph) {
             return ended_without_gil(memory::make_upstream(upstream, device), limit.value_or(Pool::kUnlimited),
                                      for_graph ? memory::Keep::kAlways : memory::Keep::kUntilShort);
           }),
           py::arg("upstream"), py::arg("device"), py::arg("limit"), py::arg("for_graph"))
      .def(
          "allocate",
          [](Pool& pool, std::uint64_t num_bytes, memory::Stream stream) {
            const HeldSite site(pool.observer());
            const WithoutGil without_gil;
            return reinterpret_cast<std::uintptr_t>(pool.allocate(num_bytes, stream));
          },
          py::arg("num_bytes"), py::arg("stream"))
      .def(
          "use", [](Pool& pool, std::uintptr_t data, memory::Stream stream) { pool.use(pointer<void>(data), stream); },
          py::arg("data"), py::arg("stream"), without_gil)
      .def(
          "share",
          [](Pool& pool, std::uintptr_t data, memory::Stream stream) { pool.share(pointer<void>(data), stream); },
          py::arg("data"), py::arg("stream"), without_gil)
      .def("num_bytes", [](Pool& pool, std::uintptr_t data) { return pool.num_bytes(pointer<void>(data)); })
      .def(
          "free",
          [](Pool& pool, std::uintptr_t data) {
            const HeldSite site(pool.observer());
            const WithoutGil without_gil;
            free_unviewed(pool, data);
          },
          py::arg("data"))
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
      .def("blocks", [](Pool& pool) { return as_list(released([&] { return pool.list(); })); })
      .def("observed", &Pool::observed)
      .def("observe", &observe, py::arg("observer").none(false))
      .def(
          "unobserve", [](Pool& pool, const memory::Recorder& recorder) { pool.unobserve(&recorder); },
          py::arg("observer"), without_gil)
      .def(
          "observer", [](Pool& pool) { return pool.observer() == nullptr ? nullptr : last_observer(pool); },
          without_gil)
      .def("last_observer", &last_observer, without_gil)
      .def("statistics", [](Pool& pool) { return as_dict(released([&] { return pool.statistics(); })); })
      .def("stream_statistics", [](Pool& pool) { return as_list(released([&] { return pool.stream_statistics(); })); })
      .def("plan_steps", &Pool::plan_steps, py::arg("most_divergences"), py::return_value_policy::reference_internal,
           without_gil);
  module.def(
      "repeat_allocations",
      [](Pool& pool, std::uint64_t num_bytes, std::uint64_t pairs, int threads) {
        memory::repeat_allocations(pool, num_bytes, pairs, threads);
      },
      py::arg("pool"), py::arg("num_bytes"), py::arg("pairs"), py::arg("threads"), without_gil);
  module.def(
      "repeat_function_allocations",
      [](bool of_torch, std::uintptr_t allocate, std::uintptr_t free, std::uint64_t num_bytes, std::uint64_t pairs,
         int threads) {
        using memory::Convention;
        memory::repeat_allocations(of_torch ? Convention::kTorch : Convention::kMalloc, allocate, free, num_bytes,
                                   pairs, threads);
      },
      py::arg("of_torch"), py::arg("allocate"), py::arg("free"), py::arg("num_bytes"), py::arg("pairs"),
      py::arg("threads"), without_gil);
  register_plugs(module);
  memory::register_planned(module);
  memory::register_replay(module);
}

}  // namespace pyparallel
