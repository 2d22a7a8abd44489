// One collective: as its caller describes it, as ranks describe it to each other, and whether they mean the same.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "comm/shm/control.hpp"

namespace pyparallel::shm {

// Memory is contiguous and stays valid until the collective has completed. Where a rank neither gives nor gets
// anything (input of a scatter, output of a gather, but on the root) the pointer is null.
struct Collective {
  Kind kind = Kind::kBarrier;
  DType dtype = DType::kUInt8;
  Reduction reduction = Reduction::kSum;
  std::uint64_t count = 0;  // elements, as in Operation::count
  int root = 0;
  const char* input = nullptr;  // all_reduce, reduce and broadcast work in place: input == output
  char* output = nullptr;
  Algorithm algorithm = Algorithm::kDirect;
  double factor = 1.0;  // of this rank, for kPremultiplied
  // Null, or two doubles that a completed all_reduce or reduce_scatter has overwritten: the sum of squares of the part
  // of the result that this rank has combined (of its own part where every rank combines all), and 1.0 if something in
  // it is inf or NaN, else 0.0. The parts of all ranks are the whole result, once.
  double* squares = nullptr;
  std::vector<std::uint64_t> output_sizes{}, input_sizes{};  // elements per rank, if count is kUnequal

  // The parts of an all_to_all, one per rank; equal ones become a count.
  void set_sizes(int world_size, std::vector<std::uint64_t> output, std::vector<std::uint64_t> input);
};

// Throws InvalidArgument, which is the caller's mistake: an unknown root, a dtype that has no such reduction, squares
// of what is no sum of floats, sizes of another number of ranks, null pointers, an input that lies across the output.
void validate(const Collective& collective, int rank, int world_size);

// Bytes of the input that a rank shows its peers.
std::uint64_t input_bytes(const Collective& collective, int world_size);

bool has_root(Kind kind);
Operation as_operation(const Collective& collective);
std::string describe(const Operation& operation);
std::string amount(std::uint64_t count);  // as messages say it

// Throws CollectiveMismatchError, the same on all ranks, if the ranks do not mean the same collective. `sequence` is
// its number, `rank` this one.
void check_same_operation(ControlBlock& control, std::uint32_t sequence, int rank);

}  // namespace pyparallel::shm
