// Bindings of what lets a user see the pool: the recorder, and the places it numbers.
#include "bindings.hpp"
#include "memory/python_sites.hpp"
#include "memory/recorder.hpp"

namespace pyparallel {
namespace {

using memory::Recorder;

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
