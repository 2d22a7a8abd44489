// Reductions of our own over NCCL's send and receive: results that depend on the ranks and their order alone, never on
// timing or on what NCCL chooses; sums of squares on the way.
//
// ring: chunk c is combined in the order c + 1, c + 2, ..., c around the ring; each hop rounds to the dtype. Adding a
// piece overlaps the transfer of the next one:
//
//   comm stream     | piece 0 | piece 1 | piece 2 | ...
//   compute stream            |  add 0  |  add 1  | ...
//
// direct: every rank receives its part of all the others and combines them in rank order, in float for 16-bit floats
// and rounded once: bit for bit the result of the shared-memory communicator.
#pragma once
#include "comm/nccl/communicator.hpp"
#include "kernels/accumulate.hpp"

namespace pyparallel::nccl {

enum class Algorithm { kRing, kDirect };

struct Combination {
  Accumulation op = Accumulation::kSum;
  bool mean = false;                  // kSum, divided by the world size in the end
  std::optional<double> factor = {};  // kSum: of this rank, applied before its values are combined
  double* squares = nullptr;          // two doubles on the device, overwritten: the sum of squares of the chunk that
                                      // this rank has combined, and 1.0 if something in it is inf or NaN
  std::size_t piece_bytes = 1 << 20;  // ring: what is added while the next is on its way
};

// In place: operand.input == operand.output.
Communicator::WorkPointer all_reduce(Communicator& communicator, Algorithm algorithm, const Operand& operand,
                                     const Combination& combination, Stream caller);
// operand.count: of the output; the input is world_size times that. The output may be the rank's part of the input.
Communicator::WorkPointer reduce_scatter(Communicator& communicator, Algorithm algorithm, const Operand& operand,
                                         const Combination& combination, Stream caller);

// Elements of chunk `index` when `count` elements are cut for the ranks, and where it begins: equal but for the last
// ones, beginning at multiples of 16 bytes.
struct Chunk {
  std::size_t begin, count;
};
Chunk chunk_of(std::size_t count, int world_size, int index, DType dtype);

}  // namespace pyparallel::nccl
