// The operand of a reduction of our own, cut into a chunk per rank, and the addition of pieces of it.
#pragma once
#include <cstddef>
#include <vector>

#include "comm/nccl/algorithms.hpp"

namespace pyparallel::nccl {

// Scratch memory is cut at multiples of this.
constexpr std::size_t aligned(std::size_t bytes) { return (bytes + 255) / 256 * 256; }

// Inside a group a call of a non-blocking communicator may say that it is in progress; the end of the group counts.
inline Result settled(Result result) { return result == Result::kInProgress ? Result::kSuccess : result; }

class Parts {
 public:
  // `scattered`: the operand is that of a reduce_scatter.
  Parts(Communicator& communicator, const Operand& operand, const Combination& combination, bool scattered);

  Chunk chunk(int index) const;      // in elements of the whole
  std::size_t largest() const;       // elements of the largest chunk
  const char* own(int index) const;  // this rank's values of a chunk
  char* result(int index) const;     // where they are wanted; of a reduce_scatter only this rank's chunk is
  std::size_t bytes(std::size_t elements) const { return elements * item_size(dtype); }
  bool scattered() const { return scattered_; }
  std::size_t count() const { return count_; }

  // target = sources combined, each times its factor; the last step divides a mean and measures.
  void combine(const std::vector<const void*>& sources, const double* factors, char* target, std::size_t count,
               bool last, SquaresPartial* partials, cudaStream_t stream) const;
  // target = source times this rank's factor.
  void scale(const char* source, char* target, std::size_t count, bool last, SquaresPartial* partials,
             cudaStream_t stream) const;
  // On the comm stream: combination.squares = the sum of the partials, if it is wanted.
  void measure(const SquaresPartial* partials, std::int64_t count) const;
  // What `waiting` does next comes after all that `awaited` has been given.
  void wait(cudaStream_t waiting, cudaStream_t awaited, int event) const;

  Communicator& comm;
  const DType dtype;
  const DataType type;

 private:
  const Combination& combination_;
  const char* const input_;
  char* const output_;
  const std::size_t count_;
  const bool scattered_;
};

void ring(const Parts& parts, const Combination& combination);

}  // namespace pyparallel::nccl
