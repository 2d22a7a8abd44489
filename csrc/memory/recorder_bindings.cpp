// Bindings of what lets a user see the pool: the recorder, and the places it numbers.
#include "bindings.hpp"
#include "memory/pool.hpp"
#include "memory/python_sites.hpp"
#include "memory/recorder.hpp"

namespace pyparallel {
namespace {

using memory::Pool;
using memory::Recorder;

// In torch's words.
const char* name_of(memory::State state) {
  if (state == memory::State::kLive) return "active_allocated";
  return state == memory::State::kPending ? "active_pending_free" : "inactive";
}

// One tuple per segment: address, bytes, blocks; and per block: address, bytes, requested, serial, stream, site, state.
py::list blocks_of(Pool& pool) {
  std::vector<memory::ListedSegment> segments;
  {
    const py::gil_scoped_release release;
    segments = pool.list();
  }
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

std::shared_ptr<Recorder> last_observer_of(Pool& pool) {
  return std::dynamic_pointer_cast<Recorder>(pool.last_observer());
}

// In torch's words.
const char* name_of(memory::Action action) {
  switch (action) {
    case memory::Action::kAllocate:
      return "alloc";
    case memory::Action::kFreeRequested:
      return "free_requested";
    case memory::Action::kFreeCompleted:
      return "free_completed";
    case memory::Action::kSegmentAllocate:
      return "segment_alloc";
    case memory::Action::kSegmentRelease:
      return "segment_free";
    case memory::Action::kSegmentExtend:
    case memory::Action::kPagesRestore:
      return "segment_map";
    case memory::Action::kPagesRelease:
      return "segment_unmap";
    case memory::Action::kOutOfMemory:
      return "oom";
    case memory::Action::kListed:
      return "snapshot";
  }
  return "unknown";
}

// Action, address, bytes, stream, site, thread, nanoseconds.
py::tuple as_tuple(const memory::Recorded& event) {
  const memory::Report& report = event.report;
  return py::make_tuple(name_of(report.action), reinterpret_cast<std::uintptr_t>(report.data), report.num_bytes,
                        report.stream, report.site, event.thread, event.time_ns);
}

}  // namespace

void register_recorder(py::module_& module) {
  py::class_<Recorder, std::shared_ptr<Recorder>>(module, "Recorder")
      .def(py::init([](std::uint64_t max_events, int frames, std::string own) {
             if (frames < 0 || frames > PythonSites::kMostFrames)
               throw InvalidArgument("frames: " + std::to_string(frames) + " is not between 0 and " +
                                     std::to_string(PythonSites::kMostFrames));
             return std::make_shared<Recorder>(max_events, std::make_shared<PythonSites>(frames, std::move(own)));
           }),
           py::arg("max_events"), py::arg("frames"), py::arg("own"))
      .def_property_readonly("capacity", &Recorder::capacity)
      .def("clear", &Recorder::clear)
      .def("history", [](const Recorder& recorder) {
        const Recorder::History history = recorder.history();
        py::list events;
        for (const memory::Recorded& event : history.events) events.append(as_tuple(event));
        return py::make_tuple(events, history.lost);
      });
  const auto without_gil = py::call_guard<py::gil_scoped_release>();
  module.def(
      "observe", [](Pool& pool, std::shared_ptr<Recorder> recorder) { pool.observe(std::move(recorder)); },
      py::arg("pool"), py::arg("recorder").none(true), without_gil);
  module.def(
      "observer_of", [](Pool& pool) { return pool.observer() == nullptr ? nullptr : last_observer_of(pool); },
      py::arg("pool"), without_gil);
  module.def("last_observer_of", &last_observer_of, py::arg("pool"), without_gil);
  module.def("observed", &Pool::observed, py::arg("pool"));
  module.def("blocks_of", &blocks_of, py::arg("pool"));
  module.def(
      "frames_of",
      [](memory::CallSite site) {
        py::list frames;
        for (const Frame& frame : PythonSites::frames_of(site))
          frames.append(py::make_tuple(frame.file, frame.line, frame.function));
        return frames;
      },
      py::arg("site"));
}

}  // namespace pyparallel
