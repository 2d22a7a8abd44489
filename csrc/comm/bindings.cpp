// Bindings of comm: the shared-memory communicator with its queue, works and segments.
#include "bindings.hpp"

#include <unistd.h>

#include <cmath>
#include <limits>
#include <mutex>
#include <utility>

#include "comm/message_lane.hpp"
#include "comm/progress.hpp"
#include "core/error.hpp"

namespace pyparallel {
namespace {

using namespace pybind11::literals;  // "name"_a

// True once Python has a signal to raise in this thread. Called without the GIL.
bool has_signal() {
  WithGil gil;
  return PyErr_CheckSignals() != 0;
}

// Turns Interrupted back into the Python exception that the signal handler raised, if there is one.
template <typename Function>
void interruptible(const Function& function) {
  try {
    WithoutGil release;
    function();
  } catch (const shm::Interrupted&) {
    if (PyErr_Occurred() != nullptr) throw py::error_already_set();
    throw;
  }
}

class ShmCommunicator {
 public:
  ShmCommunicator(std::shared_ptr<SharedSegment> control, int rank, const std::vector<int>& processes,
                  double timeout_seconds)
      : communicator_(std::move(control), rank, processes, timeout_seconds),
        queue_(std::make_shared<ProgressQueue>(communicator_)),
        messages_(communicator_),
        process_(getpid()) {}
  ~ShmCommunicator() {
    WithoutGil release;
    close();
  }

  void join() {
    interruptible([&] { communicator_.join({shm::Patience{}.yield_ns, &has_signal}); });
  }

  void go_before(ShmCommunicator& other) { communicator_.go_before(other.communicator_); }

  // Says for all to hear that this rank has failed; its own operations fail, too.
  void abort(const std::string& cause) {
    check_process();
    shm::FlightLog& flights = communicator_.flights();
    std::string operation;
    for (const shm::Lane lane : {shm::Lane::kCollectives, shm::Lane::kMessages})
      if (const auto wait = flights.waiting(lane); wait.number != 0 && operation.empty())
        operation = shm::describe(flights.read(wait.number));
    communicator_.liveness().fail(operation, cause);
    const int rank = communicator_.rank();
    const auto error = std::make_exception_ptr(
        PeerFailedError(rank, operation, cause, "this rank, " + std::to_string(rank) + ", has failed: " + cause));
    queue_->fail(error);
    messages_.fail(error);
  }

  // Of several threads the first closes, the others wait for it.
  void close() {
    if (getpid() != process_) return;
    std::call_once(closed_, [this] {
      queue_->close();
      messages_.close();
      communicator_.leave();
    });
  }

  std::shared_ptr<Work> submit(const shm::Collective& collective, bool background) {
    check_process();
    shm::validate(collective, communicator_.rank(), communicator_.world_size());
    return queue_->submit(collective, background || communicator_.goes_first());
  }

  void wait(Work& work) {
    if (work.completed.load(std::memory_order_acquire) && !work.error) return;
    check_process();
    const auto either = [&] {
      if (auto* message = dynamic_cast<shm::Message*>(&work))
        messages_.wait(*message, &has_signal);
      else
        queue_->wait(work, &has_signal);
    };
    try {
      interruptible(either);
    } catch (const std::runtime_error& error) {  // ours, not what a signal handler raised
      if (const py::object tell = swap_on_failure(py::none()); !tell.is_none())
        tell(error.what(), flight_record(), who_waits());
      throw;
    }
  }

  // What the first failed wait calls, with the error's text, the flight record and who waits for whom.
  void set_on_failure(py::object on_failure) { swap_on_failure(std::move(on_failure)); }

  // A dict per rank: whom it waits for, and its last operations.
  py::list flight_record() {
    check_process();
    py::list ranks;
    for (int r = 0; r < communicator_.world_size(); ++r) {
      const shm::RankBlock& block = communicator_.control().rank(r);
      py::list waits, operations;
      for (const shm::Lane lane : {shm::Lane::kCollectives, shm::Lane::kMessages}) {
        const auto wait = block.flights.waiting(lane);
        if (wait.number == 0) continue;
        const std::string operation = shm::describe(block.flights.read(wait.number));
        waits.append(py::dict("rank"_a = wait.rank, "operation"_a = operation, "number"_a = wait.number,
                              "since_ns"_a = wait.since_ns));
      }
      for (const shm::Flight& f : block.flights.last())
        operations.append(py::dict(
            "number"_a = f.number, "kind"_a = shm::kind_name(f.kind), "count"_a = f.count, "dtype"_a = name(f.dtype),
            "peer"_a = f.peer, "tag"_a = f.tag, "state"_a = shm::name(f.state), "submitted_ns"_a = f.submitted_ns,
            "started_ns"_a = f.started_ns, "ended_ns"_a = f.ended_ns, "operation"_a = shm::describe(f)));
      const bool failed = block.failure.failed.load(std::memory_order_acquire) != 0;
      ranks.append(py::dict("rank"_a = r, "process"_a = communicator_.processes()[static_cast<std::size_t>(r)],
                            "left"_a = communicator_.has_left(r),
                            "failure"_a = failed ? py::object(py::str(block.failure.cause)) : py::object(py::none()),
                            "waits"_a = waits, "operations"_a = operations));
    }
    return ranks;
  }

  double timeout_seconds() const { return static_cast<double>(communicator_.timeout_ns()) / 1e9; }

  std::string who_waits() { return shm::who_waits(communicator_.control()); }

  bool test(Work& work) {
    if (work.completed.load(std::memory_order_acquire)) return true;
    if (getpid() != process_) return false;
    if (auto* message = dynamic_cast<shm::Message*>(&work)) return messages_.test(*message);
    queue_->hurry();
    return false;
  }

  bool withdraw(Work& work) {
    auto* message = dynamic_cast<shm::Message*>(&work);
    return message && getpid() == process_ && messages_.withdraw(*message);
  }

  std::shared_ptr<Work> message(bool sending, std::uintptr_t data, std::uint64_t count, int dtype, int peer,
                                std::uint32_t tag) {
    check_process();
    if (count > 0 && data == 0)
      throw InvalidArgument("null pointer with elements behind it (a meta, fake or DTensor?)");
    auto message = std::make_shared<shm::Message>();
    message->sending = sending;
    message->peer = peer;
    message->tag = tag;
    message->dtype = static_cast<DType>(dtype);
    message->count = count;
    message->data = pointer<char>(data);
    messages_.submit(message);
    return message;
  }

  // A forked child leaves its copy as it is: the threads that it would join are not there, their locks may be held.
  struct Delete {
    void operator()(ShmCommunicator* communicator) const {
      if (getpid() == communicator->process_) delete communicator;
    }
  };

  int world_size() const { return communicator_.world_size(); }

  std::shared_ptr<shm::Liveness> peers() const { return communicator_.peers(); }

  void check_process() const {
    if (getpid() != process_)
      throw InvalidArgument("this communicator belongs to process " + std::to_string(process_) +
                            "; a forked child (process " + std::to_string(getpid()) + ") cannot use it");
  }

 private:
  // The one before. No count of references changes, and so nothing of Python runs, under the lock.
  py::object swap_on_failure(py::object next) {
    const std::lock_guard<std::mutex> lock(on_failure_mutex_);
    std::swap(on_failure_, next);
    return next;
  }

  shm::Communicator communicator_;
  std::shared_ptr<ProgressQueue> queue_;
  MessageLane messages_;
  int process_;
  std::once_flag closed_;
  std::mutex on_failure_mutex_;
  py::object on_failure_ = py::none();  // guarded by on_failure_mutex_
};

// A collective without the parts that only some have.
shm::Collective collective(shm::Kind kind, std::uintptr_t output, std::uintptr_t input, std::uint64_t count, int dtype,
                           int root) {
  shm::Collective result{kind, static_cast<DType>(dtype), {}, count, root};
  result.input = pointer<const char>(input);
  result.output = pointer<char>(output);
  return result;
}

void register_work(py::module_& module) {
  py::class_<Work, std::shared_ptr<Work>>(module, "Work")
      .def_property_readonly("completed", [](const Work& w) { return w.completed.load(std::memory_order_acquire); })
      .def_property_readonly(
          "succeeded", [](const Work& w) { return w.completed.load(std::memory_order_acquire) && w.error == nullptr; })
      .def_property_readonly("failed", [](const Work& w) { return w.completed.load() && w.error != nullptr; })
      .def_property_readonly("source",
                             [](const Work& w) {
                               const auto* message = dynamic_cast<const shm::Message*>(&w);
                               return message && w.completed.load(std::memory_order_acquire) ? message->source : -1;
                             })
      .def_readonly("submitted_ns", &Work::submitted_ns)
      .def_property_readonly("started_ns", [](const Work& w) { return w.started_ns.load(); })
      .def_property_readonly("ended_ns", [](const Work& w) { return w.ended_ns.load(); })
      .def_property_readonly("waited_ns", [](const Work& w) { return w.waited_ns.load(); });
}

void register_segments(py::module_& module) {
  py::class_<SharedSegment, std::shared_ptr<SharedSegment>>(module, "Segment")
      .def_static("open", &SharedSegment::open, py::arg("pid"), py::arg("fd"))
      .def_property_readonly("fd", &SharedSegment::fd)
      .def_property_readonly("num_bytes", &SharedSegment::num_bytes);
  module.def("available_memory", &available_memory);
  module.def(
      "is_shared", [](std::uintptr_t data) { return SharedSegment::containing(pointer<void>(data)) != nullptr; },
      py::arg("data"));
}

}  // namespace

void register_comm(py::module_& module) {
  using shm::Kind;
  using shm::Reduction;
  register_work(module);
  register_segments(module);
  register_nccl(module);
  py::enum_<Kind>(module, "Kind")
      .value("all_reduce", Kind::kAllReduce)
      .value("reduce", Kind::kReduce)
      .value("reduce_scatter", Kind::kReduceScatter)
      .value("all_gather", Kind::kAllGather)
      .value("broadcast", Kind::kBroadcast)
      .value("gather", Kind::kGather)
      .value("scatter", Kind::kScatter);
  py::enum_<Reduction>(module, "Reduction")
      .value("sum", Reduction::kSum)
      .value("mean", Reduction::kMean)
      .value("max", Reduction::kMax)
      .value("min", Reduction::kMin)
      .value("product", Reduction::kProduct)
      .value("premultiplied", Reduction::kPremultiplied);
  py::class_<shm::Liveness, std::shared_ptr<shm::Liveness>>(module, "Peers")
      .def("others_gone", &shm::Liveness::others_gone);
  using Self = ShmCommunicator;
  py::class_<Self, std::unique_ptr<Self, Self::Delete>>(module, "ShmCommunicator")
      .def_static("create_control", &shm::Communicator::create_control, py::arg("world_size"))
      .def(py::init<std::shared_ptr<SharedSegment>, int, const std::vector<int>&, double>(), py::arg("control"),
           py::arg("rank"), py::arg("processes"), py::arg("timeout_seconds"))
      .def("join", &Self::join)
      .def("go_before", &Self::go_before, py::arg("other"))
      .def("set_on_failure", &Self::set_on_failure, py::arg("on_failure"))
      .def("flight_record", &Self::flight_record)
      .def("who_waits", &Self::who_waits)
      .def_property_readonly("timeout_seconds", &Self::timeout_seconds)
      .def("abort", &Self::abort, py::arg("cause"), py::call_guard<WithoutGil>())
      .def("close", &Self::close, py::call_guard<WithoutGil>())
      .def("wait", &Self::wait, py::arg("work"))
      .def("check_process", &Self::check_process)
      .def_property_readonly("peers", &Self::peers)
      .def("combine",
           [](Self& self, Kind kind, std::uintptr_t output, std::uintptr_t input, std::uint64_t count, int dtype,
              int root, Reduction reduction, double factor, bool ring, std::uintptr_t squares, bool background) {
             shm::Collective c = collective(kind, output, input, count, dtype, root);
             c.reduction = reduction;
             c.factor = std::isnan(factor) ? std::numeric_limits<double>::quiet_NaN() : factor;
             c.algorithm = ring ? shm::Algorithm::kRing : shm::Algorithm::kDirect;
             c.squares = pointer<double>(squares);
             return self.submit(c, background);
           })
      .def("move",
           [](Self& self, Kind kind, std::uintptr_t output, std::uintptr_t input, std::uint64_t count, int dtype,
              int root,
              bool background) { return self.submit(collective(kind, output, input, count, dtype, root), background); })
      .def("all_to_all",
           [](Self& self, std::uintptr_t output, std::uintptr_t input, std::vector<std::uint64_t> output_sizes,
              std::vector<std::uint64_t> input_sizes, int dtype, bool background) {
             shm::Collective c = collective(Kind::kAllToAll, output, input, shm::kUnequal, dtype, 0);
             c.set_sizes(self.world_size(), std::move(output_sizes), std::move(input_sizes));
             return self.submit(c, background);
           })
      .def("test", &Self::test, py::arg("work"))
      .def("withdraw", &Self::withdraw, py::arg("work"))
      .def("send", [](Self& self, std::uintptr_t tensor, std::uint64_t count, int dtype, int destination,
                      std::uint32_t tag) { return self.message(true, tensor, count, dtype, destination, tag); })
      .def("recv", [](Self& self, std::uintptr_t tensor, std::uint64_t count, int dtype, int source,
                      std::uint32_t tag) { return self.message(false, tensor, count, dtype, source, tag); })
      .def("barrier", [](Self& self, bool background) { return self.submit({}, background); });
}

}  // namespace pyparallel
