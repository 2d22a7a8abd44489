// The operations that NCCL has, and those that are a group of sends and receives.
#include <numeric>

#include "comm/nccl/communicator.hpp"
#include "core/error.hpp"
#include "core/float16.hpp"

namespace pyparallel::nccl {
namespace {

std::string describe(const char* operation, std::size_t count, DType dtype) {
  return std::string(operation) + "(" + std::to_string(count) + " x " + name(dtype) + ")";
}

const char* offset(const void* base, std::size_t elements, DType dtype) {
  return static_cast<const char*>(base) + elements * item_size(dtype);
}
char* offset(void* base, std::size_t elements, DType dtype) {
  return static_cast<char*>(base) + elements * item_size(dtype);
}

// A factor in the dtype's own bits, as ncclRedOpCreatePreMulSum reads it.
union Scalar {
  float float32;
  double float64;
  BFloat16 bfloat16;
  Float16 float16;
};

Scalar scalar_of(double factor, DType dtype) {
  Scalar scalar{};
  switch (dtype) {
    case DType::kFloat32:
      scalar.float32 = static_cast<float>(factor);
      return scalar;
    case DType::kFloat64:
      scalar.float64 = factor;
      return scalar;
    case DType::kBFloat16:
      scalar.bfloat16 = isa_baseline::from_float<BFloat16>(static_cast<float>(factor));
      return scalar;
    case DType::kFloat16:
      scalar.float16 = isa_baseline::from_float<Float16>(static_cast<float>(factor));
      return scalar;
    default:
      throw InvalidArgument(std::string("a factor times ") + name(dtype) + " is not an integer");
  }
}

}  // namespace

DataType data_type(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return DataType::kFloat32;
    case DType::kFloat64:
      return DataType::kFloat64;
    case DType::kBFloat16:
      return DataType::kBfloat16;
    case DType::kFloat16:
      return DataType::kFloat16;
    case DType::kInt32:
      return DataType::kInt32;
    case DType::kInt64:
      return DataType::kInt64;
    case DType::kUInt8:
      return DataType::kUint8;
    case DType::kInt8:
      return DataType::kInt8;
    default:
      throw InvalidArgument(std::string("NCCL does not combine ") + name(dtype));
  }
}

// An operator with a factor lives until the call that uses it is through.
void Communicator::with_reduction(const Reduction& reduction, DType dtype, const std::function<void(RedOp)>& body) {
  if (reduction.op == RedOp::kAvg && library_.version < 21000)
    throw NcclError(-1, library_.path + " has no mean, which is new in NCCL 2.10");
  if (!reduction.factor) return body(reduction.op);
  if (library_.RedOpCreatePreMulSum == nullptr || library_.RedOpDestroy == nullptr)
    throw NcclError(-1, library_.path + " has no ncclRedOpCreatePreMulSum, which is new in NCCL 2.11");
  Scalar scalar = scalar_of(*reduction.factor, dtype);
  RedOp op{};
  call("ncclRedOpCreatePreMulSum", [&](Comm comm) {
    return library_.RedOpCreatePreMulSum(&op, &scalar, data_type(dtype), kScalarHostImmediate, comm);
  });
  body(op);
  call("ncclRedOpDestroy", [&](Comm comm) { return library_.RedOpDestroy(op, comm); });
}

Communicator::WorkPointer Communicator::all_reduce(const Operand& o, const Reduction& reduction, Stream caller) {
  const std::string name = describe("all_reduce", o.count, o.dtype);
  const DataType type = data_type(o.dtype);
  return submit(name, -1, caller, [&] {
    with_reduction(reduction, o.dtype, [&](RedOp op) {
      call(name.c_str(),
           [&](Comm comm) { return library_.AllReduce(o.input, o.output, o.count, type, op, comm, comm_stream_); });
    });
  });
}

Communicator::WorkPointer Communicator::reduce(const Operand& o, const Reduction& reduction, int root, Stream caller) {
  const std::string name = describe("reduce", o.count, o.dtype);
  const DataType type = data_type(o.dtype);
  return submit(name, -1, caller, [&] {
    with_reduction(reduction, o.dtype, [&](RedOp op) {
      call(name.c_str(),
           [&](Comm comm) { return library_.Reduce(o.input, o.output, o.count, type, op, root, comm, comm_stream_); });
    });
  });
}

Communicator::WorkPointer Communicator::reduce_scatter(const Operand& o, const Reduction& reduction, Stream caller) {
  const std::string name = describe("reduce_scatter", o.count, o.dtype);
  const DataType type = data_type(o.dtype);
  return submit(name, -1, caller, [&] {
    with_reduction(reduction, o.dtype, [&](RedOp op) {
      call(name.c_str(),
           [&](Comm comm) { return library_.ReduceScatter(o.input, o.output, o.count, type, op, comm, comm_stream_); });
    });
  });
}

Communicator::WorkPointer Communicator::all_gather(const Operand& o, Stream caller) {
  const std::string name = describe("all_gather", o.count, o.dtype);
  return submit(name, -1, caller, [&] {
    call(name.c_str(), [&](Comm comm) {
      return library_.AllGather(o.input, o.output, o.count, data_type(o.dtype), comm, comm_stream_);
    });
  });
}

Communicator::WorkPointer Communicator::broadcast(const Operand& o, int root, Stream caller) {
  const std::string name = describe("broadcast", o.count, o.dtype);
  return submit(name, -1, caller, [&] {
    call(name.c_str(), [&](Comm comm) {
      return library_.Broadcast(o.input, o.output, o.count, data_type(o.dtype), root, comm, comm_stream_);
    });
  });
}

Communicator::WorkPointer Communicator::barrier(Stream caller) {
  return submit("barrier()", -1, caller, [&] {
    call("barrier()", [&](Comm comm) {
      return library_.AllReduce(token_, token_, 1, DataType::kInt32, RedOp::kSum, comm, comm_stream_);
    });
  });
}

// ---- groups of sends and receives; empty ones are left out on both sides ----

Communicator::WorkPointer Communicator::exchange(const std::string& name, const Operand& o,
                                                 const std::vector<std::size_t>& output_counts,
                                                 const std::vector<std::size_t>& input_counts, Stream caller) {
  const DataType type = data_type(o.dtype);
  return submit(name, -1, caller, [&] {
    group(name.c_str(), [&](Comm comm) {
      Result result = Result::kSuccess;
      const auto note = [&](Result each) {
        if (each != Result::kSuccess && each != Result::kInProgress) result = each;
      };
      std::size_t sent = 0, received = 0;
      for (int peer = 0; peer < world_size_; ++peer) {
        const std::size_t to = input_counts[static_cast<std::size_t>(peer)];
        const std::size_t from = output_counts[static_cast<std::size_t>(peer)];
        if (to > 0) note(library_.Send(offset(o.input, sent, o.dtype), to, type, peer, comm, comm_stream_));
        if (from > 0) note(library_.Recv(offset(o.output, received, o.dtype), from, type, peer, comm, comm_stream_));
        sent += to;
        received += from;
      }
      return result;
    });
  });
}

Communicator::WorkPointer Communicator::gather(const Operand& o, int root, Stream caller) {
  std::vector<std::size_t> to(static_cast<std::size_t>(world_size_)), from(to);
  to.at(static_cast<std::size_t>(root)) = o.count;
  if (rank_ == root) from.assign(from.size(), o.count);
  return exchange(describe("gather", o.count, o.dtype), o, from, to, caller);
}

Communicator::WorkPointer Communicator::scatter(const Operand& o, int root, Stream caller) {
  std::vector<std::size_t> to(static_cast<std::size_t>(world_size_)), from(to);
  from.at(static_cast<std::size_t>(root)) = o.count;
  if (rank_ == root) to.assign(to.size(), o.count);
  return exchange(describe("scatter", o.count, o.dtype), o, from, to, caller);
}

Communicator::WorkPointer Communicator::all_to_all(const Operand& o, const std::vector<std::size_t>& output_counts,
                                                   const std::vector<std::size_t>& input_counts, Stream caller) {
  const std::size_t world_size = static_cast<std::size_t>(world_size_);
  if (output_counts.size() != world_size || input_counts.size() != world_size)
    throw InvalidArgument("all_to_all: one count per rank");
  const std::size_t sent = std::accumulate(input_counts.begin(), input_counts.end(), std::size_t{0});
  return exchange(describe("all_to_all", sent, o.dtype), o, output_counts, input_counts, caller);
}

Communicator::WorkPointer Communicator::send(const Operand& o, int peer, Stream caller) {
  const std::string name = describe("send", o.count, o.dtype) + " to rank " + std::to_string(name_of(peer));
  return submit(name, peer, caller, [&] {
    if (o.count == 0) return;
    call(name.c_str(),
         [&](Comm comm) { return library_.Send(o.input, o.count, data_type(o.dtype), peer, comm, comm_stream_); });
  });
}

Communicator::WorkPointer Communicator::recv(const Operand& o, int peer, Stream caller) {
  const std::string name = describe("recv", o.count, o.dtype) + " from rank " + std::to_string(name_of(peer));
  return submit(name, peer, caller, [&] {
    if (o.count == 0) return;
    call(name.c_str(),
         [&](Comm comm) { return library_.Recv(o.output, o.count, data_type(o.dtype), peer, comm, comm_stream_); });
  });
}

}  // namespace pyparallel::nccl
