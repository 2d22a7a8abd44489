// Bindings of comm: the shared-memory communicator with its queue, works, and shared buffers.
#include "bindings.hpp"

#include <unistd.h>

#include "comm/progress.hpp"
#include "core/error.hpp"

namespace pyparallel {
namespace {

// True once Python has a signal to raise in this thread. Called without the GIL.
bool has_signal() {
  py::gil_scoped_acquire gil;
  return PyErr_CheckSignals() != 0;
}

// Turns Interrupted back into the Python exception that the signal handler raised, if there is one.
template <typename Function>
void interruptible(const Function& function) {
  try {
    py::gil_scoped_release release;
    function();
  } catch (const shm::Interrupted&) {
    if (PyErr_Occurred() != nullptr) throw py::error_already_set();
    throw;
  }
}

// A shared allocation as a Python buffer. The memory goes back when the last tensor over it is gone.
class SharedBuffer {
 public:
  SharedBuffer(std::shared_ptr<shm::SegmentTable> table, std::uint64_t num_bytes)
      : table_(std::move(table)), segment_(table_->allocate(num_bytes)), process_(getpid()) {}
  // A forked child has a copy of this object; the entry in the shared table is still its parent's.
  ~SharedBuffer() {
    if (getpid() == process_) table_->release(*segment_);
  }
  SharedBuffer(const SharedBuffer&) = delete;
  SharedBuffer& operator=(const SharedBuffer&) = delete;

  py::buffer_info info() const {
    return py::buffer_info(reinterpret_cast<unsigned char*>(segment_->data()),
                           static_cast<py::ssize_t>(segment_->num_bytes()));
  }

 private:
  std::shared_ptr<shm::SegmentTable> table_;
  std::shared_ptr<shm::Segment> segment_;
  int process_;
};

class ShmCommunicator {
 public:
  ShmCommunicator(std::shared_ptr<shm::Segment> control, int rank, const std::vector<int>& processes,
                  double timeout_seconds)
      : communicator_(std::move(control), rank, processes, timeout_seconds),
        queue_(std::make_shared<ProgressQueue>(communicator_)),
        process_(getpid()) {}
  ~ShmCommunicator() {
    py::gil_scoped_release release;
    close();
  }

  void join() {
    interruptible([&] { communicator_.join({shm::Patience{}.yield_ns, &has_signal}); });
  }

  void close() {
    if (getpid() != process_ || closed_) return;
    closed_ = true;
    queue_->close();
    communicator_.leave();
  }

  std::shared_ptr<Work> submit(const shm::Collective& collective, bool background) {
    check_process();
    return queue_->submit(collective, background);
  }

  void wait(Work& work) {
    if (work.completed.load(std::memory_order_acquire) && !work.error) return;
    check_process();
    interruptible([&] { queue_->wait(work, &has_signal); });
  }

  std::unique_ptr<SharedBuffer> allocate(std::uint64_t num_bytes) {
    check_process();
    return std::make_unique<SharedBuffer>(communicator_.segments(), num_bytes);
  }

 private:
  void check_process() const {
    if (getpid() != process_)
      throw InvalidArgument("this communicator belongs to process " + std::to_string(process_) +
                            "; a forked child (process " + std::to_string(getpid()) + ") cannot use it");
  }

  shm::Communicator communicator_;
  std::shared_ptr<ProgressQueue> queue_;
  int process_;
  bool closed_ = false;
};

shm::Collective collective(shm::Kind kind, std::uintptr_t output, std::uintptr_t input, std::uint64_t count, int dtype,
                           shm::Reduction reduction, int root) {
  if (count > 0 && (output == 0 || input == 0))
    throw InvalidArgument("null pointer with elements behind it (a meta, fake or DTensor?)");
  return {kind, static_cast<DType>(dtype), reduction, count, root, pointer<const char>(input), pointer<char>(output)};
}

void register_work(py::module_& module) {
  py::class_<Work, std::shared_ptr<Work>>(module, "Work")
      .def_property_readonly("completed", [](const Work& w) { return w.completed.load(std::memory_order_acquire); })
      .def_property_readonly("failed", [](const Work& w) { return w.completed.load() && w.error != nullptr; })
      .def_readonly("submitted_ns", &Work::submitted_ns)
      .def_readonly("started_ns", &Work::started_ns)
      .def_readonly("ended_ns", &Work::ended_ns)
      .def_readonly("waited_ns", &Work::waited_ns);
}

void register_memory(py::module_& module) {
  py::class_<shm::Segment, std::shared_ptr<shm::Segment>>(module, "Segment")
      .def_static("open", &shm::Segment::open, py::arg("pid"), py::arg("fd"))
      .def_property_readonly("fd", &shm::Segment::fd)
      .def_property_readonly("num_bytes", &shm::Segment::num_bytes);
  py::class_<SharedBuffer>(module, "SharedBuffer", py::buffer_protocol()).def_buffer([](SharedBuffer& buffer) {
    return buffer.info();
  });
  module.def("available_memory", &shm::available_memory);
}

}  // namespace

void register_comm(py::module_& module) {
  using shm::Kind;
  using shm::Reduction;
  register_work(module);
  register_memory(module);
  register_nccl(module);
  py::enum_<Reduction>(module, "Reduction")
      .value("sum", Reduction::kSum)
      .value("mean", Reduction::kMean)
      .value("max", Reduction::kMax)
      .value("min", Reduction::kMin);
  using Self = ShmCommunicator;
  py::class_<Self>(module, "ShmCommunicator")
      .def_static("create_control", &shm::Communicator::create_control, py::arg("world_size"))
      .def(py::init<std::shared_ptr<shm::Segment>, int, const std::vector<int>&, double>(), py::arg("control"),
           py::arg("rank"), py::arg("processes"), py::arg("timeout_seconds"))
      .def("join", &Self::join)
      .def("close", &Self::close, py::call_guard<py::gil_scoped_release>())
      .def("wait", &Self::wait, py::arg("work"))
      .def("allocate", &Self::allocate, py::arg("num_bytes"))
      .def("all_reduce",
           [](Self& self, std::uintptr_t tensor, std::uint64_t count, int dtype, Reduction reduction, bool background) {
             return self.submit(collective(Kind::kAllReduce, tensor, tensor, count, dtype, reduction, 0), background);
           })
      .def("broadcast",
           [](Self& self, std::uintptr_t tensor, std::uint64_t count, int dtype, int root, bool background) {
             return self.submit(collective(Kind::kBroadcast, tensor, tensor, count, dtype, Reduction::kSum, root),
                                background);
           })
      .def(
          "all_gather",
          [](Self& self, std::uintptr_t output, std::uintptr_t input, std::uint64_t count, int dtype, bool background) {
            return self.submit(collective(Kind::kAllGather, output, input, count, dtype, Reduction::kSum, 0),
                               background);
          })
      .def("reduce_scatter",
           [](Self& self, std::uintptr_t output, std::uintptr_t input, std::uint64_t count, int dtype,
              Reduction reduction, bool background) {
             return self.submit(collective(Kind::kReduceScatter, output, input, count, dtype, reduction, 0),
                                background);
           })
      .def("barrier", [](Self& self, bool background) { return self.submit({}, background); });
}

}  // namespace pyparallel
