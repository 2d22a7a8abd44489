// Bindings of the NCCL communicator. Every call that may wait for a device, a rank or a lock gives up the GIL.
#include "bindings.hpp"

#if PYPARALLEL_CUDA
#include <unistd.h>

#include <cstring>

#include "comm/nccl/algorithms.hpp"
#include "comm/nccl/communicator.hpp"
#include "core/error.hpp"

namespace pyparallel {
namespace {

using nccl::Algorithm;
using nccl::Combination;
using nccl::Communicator;
using nccl::Operand;
using nccl::Reduction;

// The library is opened once per process, at the first communicator, and stays.
const nccl::Library& opened(const std::string& override, const std::vector<std::string>& candidates) {
  static const nccl::Library library = nccl::open_library(override, candidates);
  return library;
}

cudaStream_t stream_of(std::uintptr_t handle) { return pointer<CUstream_st>(handle); }

Operand operand(std::uintptr_t output, std::uintptr_t input, std::uint64_t count, int dtype) {
  return {pointer<const void>(input), pointer<void>(output), count, static_cast<DType>(dtype)};
}

Reduction reduction(const std::string& op, std::optional<double> factor) {
  using nccl::RedOp;
  const std::pair<const char*, RedOp> ops[] = {{"sum", RedOp::kSum},
                                               {"mean", RedOp::kAvg},
                                               {"max", RedOp::kMax},
                                               {"min", RedOp::kMin},
                                               {"product", RedOp::kProd}};
  for (const auto& [name, each] : ops)
    if (op == name) return {each, factor};
  throw InvalidArgument("no reduction " + op);
}

Combination combination(const std::string& op, std::optional<double> factor, std::uintptr_t squares) {
  Combination result;
  result.op = op == "max"       ? Accumulation::kMax
              : op == "min"     ? Accumulation::kMin
              : op == "product" ? Accumulation::kProduct
                                : Accumulation::kSum;
  result.mean = op == "mean";
  result.factor = factor;
  result.squares = pointer<double>(squares);
  return result;
}

// The communicator as Python sees it: of one process only.
class NcclCommunicator {
 public:
  NcclCommunicator(const std::string& override, const std::vector<std::string>& candidates, const std::string& id,
                   int rank, int world_size, int device, double timeout_seconds, const std::vector<int>& names)
      : process_(getpid()) {
    nccl::UniqueId unique_id;
    if (id.size() != sizeof unique_id) throw InvalidArgument("an id of " + std::to_string(id.size()) + " bytes");
    std::memcpy(&unique_id, id.data(), sizeof unique_id);
    nccl::Options options;
    options.timeout_seconds = timeout_seconds;
    options.names = names;
    native_ =
        std::make_unique<Communicator>(opened(override, candidates), unique_id, rank, world_size, device, options);
  }
  explicit NcclCommunicator(std::unique_ptr<Communicator> native) : native_(std::move(native)), process_(getpid()) {}
  ~NcclCommunicator() {
    // CUDA does not survive a fork: a child lets go of its copy without a call.
    if (getpid() != process_)
      (void)native_.release();
    else
      native_.reset();
  }

  // A forked child leaves its parent's alone.
  void close() {
    if (getpid() == process_) native_->close();
  }

  Communicator& native() const {
    if (getpid() != process_)
      throw InvalidArgument("this communicator belongs to process " + std::to_string(process_) +
                            "; a forked child (process " + std::to_string(getpid()) + ") cannot use it");
    return *native_;
  }

 private:
  std::unique_ptr<Communicator> native_;
  int process_;
};

using Release = py::call_guard<WithoutGil>;
using Self = NcclCommunicator;
using WorkPointer = std::shared_ptr<nccl::Work>;

void register_work(py::module_& module) {
  py::class_<nccl::Work, WorkPointer>(module, "NcclWork")
      .def(
          "wait", [](nccl::Work& work, std::uintptr_t stream) { work.wait(stream_of(stream)); }, Release())
      .def_property_readonly("completed", &nccl::Work::is_completed)
      .def_property_readonly("failed", [](const nccl::Work& work) { return work.error() != nullptr; })
      .def_property_readonly("started_ns", &nccl::Work::started_ns)
      .def_property_readonly("ended_ns", &nccl::Work::ended_ns)
      .def_readonly("description", &nccl::Work::description);
}

void register_life(py::class_<Self>& communicator) {
  communicator
      .def(py::init<const std::string&, const std::vector<std::string>&, const std::string&, int, int, int, double,
                    const std::vector<int>&>(),
           Release())
      .def(
          "join", [](Self& self) { self.native().join(); }, Release())
      .def(
          "split",
          [](Self& self, int color, int key) -> std::unique_ptr<Self> {
            auto part = self.native().split(color, key);
            return part ? std::make_unique<Self>(std::move(part)) : nullptr;
          },
          Release())
      .def(
          "peer_failed",
          [](Self& self, int peer, const std::string& operation, const std::string& cause, bool lost) {
            self.native().peer_failed(peer, operation, cause, lost);
          },
          Release())
      .def(
          "peer_left", [](Self& self, int peer) { self.native().peer_left(peer); }, Release())
      .def(
          "doing", [](Self& self) { return self.native().doing(); }, Release())
      .def(
          "finish", [](Self& self) { self.native().finish(); }, Release())
      .def(
          "close", [](Self& self) { self.close(); }, Release())
      .def_property_readonly("failed", [](const Self& self) { return self.native().error() != nullptr; })
      .def_property_readonly("rank", [](const Self& self) { return self.native().rank(); })
      .def_property_readonly("world_size", [](const Self& self) { return self.native().world_size(); });
}

void register_reductions(py::class_<Self>& communicator) {
  using Factor = std::optional<double>;
  communicator
      .def(
          "all_reduce",
          [](Self& self, std::uintptr_t tensor, std::uint64_t count, int dtype, const std::string& op, Factor factor,
             std::uintptr_t stream) {
            return self.native().all_reduce(operand(tensor, tensor, count, dtype), reduction(op, factor),
                                            stream_of(stream));
          },
          Release())
      .def(
          "reduce",
          [](Self& self, std::uintptr_t tensor, std::uint64_t count, int dtype, const std::string& op, Factor factor,
             int root, std::uintptr_t stream) {
            return self.native().reduce(operand(tensor, tensor, count, dtype), reduction(op, factor), root,
                                        stream_of(stream));
          },
          Release())
      .def(
          "reduce_scatter",
          [](Self& self, std::uintptr_t output, std::uintptr_t input, std::uint64_t count, int dtype,
             const std::string& op, Factor factor, std::uintptr_t stream) {
            return self.native().reduce_scatter(operand(output, input, count, dtype), reduction(op, factor),
                                                stream_of(stream));
          },
          Release())
      .def(
          "own_all_reduce",
          [](Self& self, bool ring, std::uintptr_t tensor, std::uint64_t count, int dtype, const std::string& op,
             Factor factor, std::uintptr_t squares, std::uintptr_t stream) {
            return nccl::all_reduce(self.native(), ring ? Algorithm::kRing : Algorithm::kDirect,
                                    operand(tensor, tensor, count, dtype), combination(op, factor, squares),
                                    stream_of(stream));
          },
          Release())
      .def(
          "own_reduce_scatter",
          [](Self& self, bool ring, std::uintptr_t output, std::uintptr_t input, std::uint64_t count, int dtype,
             const std::string& op, Factor factor, std::uintptr_t squares, std::uintptr_t stream) {
            return nccl::reduce_scatter(self.native(), ring ? Algorithm::kRing : Algorithm::kDirect,
                                        operand(output, input, count, dtype), combination(op, factor, squares),
                                        stream_of(stream));
          },
          Release());
}

// Counts in bytes: what only moves has no dtype.
void register_moves(py::class_<Self>& communicator) {
  constexpr int kByte = static_cast<int>(DType::kUInt8);
  using Pointer = std::uintptr_t;
  using Counts = std::vector<std::size_t>;
  communicator
      .def(
          "all_gather",
          [](Self& self, Pointer output, Pointer input, std::uint64_t bytes, Pointer stream) {
            return self.native().all_gather(operand(output, input, bytes, kByte), stream_of(stream));
          },
          Release())
      .def(
          "broadcast",
          [](Self& self, Pointer tensor, std::uint64_t bytes, int root, Pointer stream) {
            return self.native().broadcast(operand(tensor, tensor, bytes, kByte), root, stream_of(stream));
          },
          Release())
      .def(
          "gather",
          [](Self& self, Pointer output, Pointer input, std::uint64_t bytes, int root, Pointer stream) {
            return self.native().gather(operand(output, input, bytes, kByte), root, stream_of(stream));
          },
          Release())
      .def(
          "scatter",
          [](Self& self, Pointer output, Pointer input, std::uint64_t bytes, int root, Pointer stream) {
            return self.native().scatter(operand(output, input, bytes, kByte), root, stream_of(stream));
          },
          Release())
      .def(
          "all_to_all",
          [](Self& self, Pointer output, Pointer input, const Counts& output_bytes, const Counts& input_bytes,
             Pointer stream) {
            return self.native().all_to_all(operand(output, input, 0, kByte), output_bytes, input_bytes,
                                            stream_of(stream));
          },
          Release())
      .def(
          "send",
          [](Self& self, Pointer tensor, std::uint64_t bytes, int peer, Pointer stream) {
            return self.native().send(operand(0, tensor, bytes, kByte), peer, stream_of(stream));
          },
          Release())
      .def(
          "recv",
          [](Self& self, Pointer tensor, std::uint64_t bytes, int peer, Pointer stream) {
            return self.native().recv(operand(tensor, 0, bytes, kByte), peer, stream_of(stream));
          },
          Release())
      .def("barrier", [](Self& self, Pointer stream) { return self.native().barrier(stream_of(stream)); }, Release());
}

}  // namespace

void register_nccl(py::module_& module) {
  register_work(module);
  py::class_<Self> communicator(module, "NcclCommunicator");
  communicator.def_static("create_id", [](const std::string& override, const std::vector<std::string>& candidates) {
    const nccl::UniqueId id = Communicator::create_unique_id(opened(override, candidates));
    return py::bytes(id.internal, sizeof id.internal);
  });
  register_life(communicator);
  register_reductions(communicator);
  register_moves(communicator);
}

}  // namespace pyparallel
#else
namespace pyparallel {
void register_nccl(py::module_&) {}
}  // namespace pyparallel
#endif
