// What both algorithms share, and the direct one: everybody sends everybody its part.
#include "comm/nccl/algorithms.hpp"

#include <algorithm>

#include "comm/nccl/parts.hpp"
#include "core/cuda_check.hpp"
#include "core/error.hpp"

namespace pyparallel::nccl {

Chunk chunk_of(std::size_t count, int world_size, int index, DType dtype) {
  const std::size_t ranks = static_cast<std::size_t>(world_size), grain = 16 / item_size(dtype);
  const std::size_t even = ((count + ranks - 1) / ranks + grain - 1) / grain * grain;
  const std::size_t begin = std::min(count, even * static_cast<std::size_t>(index));
  return {begin, std::min(even, count - begin)};
}

// ---- parts ----

Parts::Parts(Communicator& communicator, const Operand& operand, const Combination& combination, bool scattered)
    : comm(communicator),
      dtype(operand.dtype),
      type(data_type(operand.dtype)),
      combination_(combination),
      input_(static_cast<const char*>(operand.input)),
      output_(static_cast<char*>(operand.output)),
      count_(operand.count),
      scattered_(scattered) {}

Chunk Parts::chunk(int index) const {
  if (!scattered_) return chunk_of(count_, comm.world_size(), index, dtype);
  return {count_ * static_cast<std::size_t>(index), count_};
}

std::size_t Parts::largest() const { return chunk(0).count; }

const char* Parts::own(int index) const { return input_ + bytes(chunk(index).begin); }

char* Parts::result(int index) const { return scattered_ ? output_ : output_ + bytes(chunk(index).begin); }

void Parts::combine(const std::vector<const void*>& sources, const double* factors, char* target, std::size_t count,
                    bool last, SquaresPartial* partials, cudaStream_t stream) const {
  AccumulateCall call{};
  call.output = target;
  call.sources = sources.data();
  call.source_count = static_cast<int>(sources.size());
  call.count = static_cast<std::int64_t>(count);
  call.dtype = dtype;
  call.op = combination_.op;
  call.factors = factors;
  if (last && combination_.mean) call.scale = 1.0 / comm.world_size();
  accumulate_cuda(call, last ? partials : nullptr, comm.device(), stream);
}

void Parts::scale(const char* source, char* target, std::size_t count, bool last, SquaresPartial* partials,
                  cudaStream_t stream) const {
  const double* const factor = combination_.factor ? &*combination_.factor : nullptr;
  combine({source}, factor, target, count, last, partials, stream);
}

void Parts::measure(const SquaresPartial* partials, std::int64_t count) const {
  if (combination_.squares == nullptr) return;
  check_cuda(cudaMemsetAsync(combination_.squares, 0, 2 * sizeof(double), comm.comm_stream()), "cudaMemsetAsync");
  add_partials_cuda(partials, count, combination_.squares, comm.device(), comm.comm_stream());
}

void Parts::wait(cudaStream_t waiting, cudaStream_t awaited, int event) const {
  check_cuda(cudaEventRecord(comm.event(event), awaited), "cudaEventRecord");
  check_cuda(cudaStreamWaitEvent(waiting, comm.event(event), 0), "cudaStreamWaitEvent");
}

namespace {

// ---- direct ----

// Calls `each(peer)` for every other rank, inside one group.
template <class Each>
void with_peers(const Parts& parts, const char* name, const Each& each) {
  parts.comm.group(name, [&](Comm handle) {
    Result result = Result::kSuccess;
    for (int peer = 0; peer < parts.comm.world_size() && result == Result::kSuccess; ++peer)
      if (peer != parts.comm.rank()) result = each(handle, peer);
    return result;
  });
}

Result send(const Parts& parts, Comm handle, const char* source, std::size_t count, int peer) {
  if (count == 0) return Result::kSuccess;
  return settled(parts.comm.library().Send(source, count, parts.type, peer, handle, parts.comm.comm_stream()));
}

Result receive(const Parts& parts, Comm handle, char* target, std::size_t count, int peer) {
  if (count == 0) return Result::kSuccess;
  return settled(parts.comm.library().Recv(target, count, parts.type, peer, handle, parts.comm.comm_stream()));
}

// What this rank sends, each element times its factor, rounded to the dtype.
const char* multiplied(const Parts& parts, char* target) {
  const std::size_t ranks = static_cast<std::size_t>(parts.comm.world_size());
  const std::size_t count = parts.scattered() ? parts.count() * ranks : parts.count();
  parts.scale(parts.own(0), target, count, false, nullptr, parts.comm.comm_stream());
  return target;
}

void direct(const Parts& parts, const Combination& combination) {
  Communicator& comm = parts.comm;
  const int world_size = comm.world_size(), rank = comm.rank();
  const std::size_t slot = aligned(parts.bytes(parts.largest())), mine = parts.chunk(rank).count;
  const std::size_t slots = slot * static_cast<std::size_t>(world_size);
  const std::int64_t partial_count =
      combination.squares != nullptr ? accumulate_partials(static_cast<std::int64_t>(mine)) : 0;
  const std::size_t partial_bytes = static_cast<std::size_t>(partial_count) * sizeof(SquaresPartial);
  const bool copied = combination.factor && parts.scattered();
  char* const memory = static_cast<char*>(comm.scratch(slots + aligned(partial_bytes) + (copied ? slots : 0)));
  const auto partials = combination.squares != nullptr ? reinterpret_cast<SquaresPartial*>(memory + slots) : nullptr;

  const char* base = parts.own(0);
  if (combination.factor) base = multiplied(parts, copied ? memory + slots + aligned(partial_bytes) : parts.result(0));
  with_peers(parts, "direct: parts", [&](Comm handle, int peer) {
    const Chunk theirs = parts.chunk(peer);
    const Result sent = send(parts, handle, base + parts.bytes(theirs.begin), theirs.count, peer);
    if (sent != Result::kSuccess) return sent;
    return receive(parts, handle, memory + slot * static_cast<std::size_t>(peer), mine, peer);
  });
  std::vector<const void*> sources;
  for (int peer = 0; peer < world_size; ++peer)
    sources.push_back(peer == rank ? base + parts.bytes(parts.chunk(rank).begin)
                                   : memory + slot * static_cast<std::size_t>(peer));
  parts.combine(sources, nullptr, parts.result(rank), mine, true, partials, comm.comm_stream());
  parts.measure(partials, partial_count);
  if (parts.scattered()) return;
  with_peers(parts, "direct: results", [&](Comm handle, int peer) {
    const Result sent = send(parts, handle, parts.result(rank), mine, peer);
    if (sent != Result::kSuccess) return sent;
    return receive(parts, handle, parts.result(peer), parts.chunk(peer).count, peer);
  });
}

void check(const Communicator& communicator, Algorithm algorithm, const Combination& combination) {
  if (algorithm == Algorithm::kDirect && communicator.world_size() > kMaxSources)
    throw InvalidArgument("the direct algorithm combines up to " + std::to_string(kMaxSources) + " ranks, these are " +
                          std::to_string(communicator.world_size()) + ": use the ring");
  const bool sum = combination.op == Accumulation::kSum;
  if (!sum && (combination.mean || combination.factor || combination.squares != nullptr))
    throw InvalidArgument("means, factors and sums of squares belong to sums");
}

Communicator::WorkPointer run(const char* operation, Communicator& communicator, Algorithm algorithm,
                              const Operand& operand, const Combination& combination, Stream caller, bool scattered) {
  check(communicator, algorithm, combination);
  const char* const how = algorithm == Algorithm::kRing ? "ring" : "direct";
  const std::string description =
      std::string(operation) + "(" + std::to_string(operand.count) + " x " + name(operand.dtype) + ", " + how + ")";
  return communicator.submit(description, -1, caller, [&] {
    const Parts parts(communicator, operand, combination, scattered);
    if (algorithm == Algorithm::kRing)
      ring(parts, combination);
    else
      direct(parts, combination);
  });
}

}  // namespace

Communicator::WorkPointer all_reduce(Communicator& communicator, Algorithm algorithm, const Operand& operand,
                                     const Combination& combination, Stream caller) {
  return run("all_reduce", communicator, algorithm, operand, combination, caller, false);
}

Communicator::WorkPointer reduce_scatter(Communicator& communicator, Algorithm algorithm, const Operand& operand,
                                         const Combination& combination, Stream caller) {
  return run("reduce_scatter", communicator, algorithm, operand, combination, caller, true);
}

}  // namespace pyparallel::nccl
