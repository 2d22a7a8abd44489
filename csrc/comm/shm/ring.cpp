// The ring: every rank takes partial sums from the rank before it, adds its own values and gives them to the next, so
// each rank reads and writes the same amount whatever the world size. Part c of the operand starts at rank c + 1 and is
// complete at rank c; from there the finished parts go round once more in an all_reduce.
//
//   rank r, world size W, step t: part (r - 1 - t) mod W
//     t = 0          own values                       -> own bounce buffer
//     0 < t < W - 1  the previous rank's sum + own    -> own bounce buffer
//     t = W - 1      the previous rank's sum + own    -> output, and own bounce buffer in an all_reduce
//     W <= t         what the previous rank gave      -> output, and own bounce buffer but in the last step
//
// These steps are gone through for one piece of every part at a time: a bounce buffer holds two pieces, so a rank may
// be one step ahead of the next one. Partial sums travel in the operand's dtype: 16-bit floats are added in float, but
// rounded at every step, where the direct way rounds once. The order of additions depends on nothing but the place.
#include "comm/shm/pieces.hpp"

namespace pyparallel::shm {
namespace {

struct Part {
  std::uint64_t begin, bytes;
};

// Parts of the input: of a tensor cut in `parts`, or those that the ranks of a reduce_scatter get.
Part part_of(const Collective& c, int part, int parts) {
  const std::uint64_t bytes = c.count * item_size(c.dtype);
  if (c.kind == Kind::kReduceScatter) return {static_cast<std::uint64_t>(part) * bytes, bytes};
  const std::uint64_t begin = part_begin(bytes, part, parts);
  return {begin, part_begin(bytes, part + 1, parts) - begin};
}

}  // namespace

void Communicator::ring(const Collective& c) {
  const int next = (rank_ + 1) % world_size_, previous = (rank_ + world_size_ - 1) % world_size_;
  const int steps = (c.kind == Kind::kAllReduce ? 2 : 1) * (world_size_ - 1);  // in which this rank gives a piece
  const std::uint64_t pieces = pieces_of(part_of(c, world_size_ - 1, world_size_).bytes, kPieceBytes);
  RankBlock& own = control_.rank(rank_);
  std::uint32_t number = piece_;
  for (std::uint64_t p = 0; p < pieces; ++p)
    for (int step = 0; step <= steps; ++step) {  // takes piece `number` from the previous rank, gives the next one
      const bool takes = step > 0, gives = step < steps;
      if (gives) await(&RankBlock::drained, next, number - 1);
      if (takes) await(&RankBlock::filled, previous, number);
      const Part part = part_of(c, (2 * world_size_ + rank_ - 1 - step) % world_size_, world_size_);
      ring_step(c, step, p * kPieceBytes, part.begin, piece_size(part.bytes, p, kPieceBytes),
                takes ? control_.bounce(previous, number) : nullptr,
                gives ? control_.bounce(rank_, number + 1) : nullptr);
      if (takes) publish(own.drained, number);
      if (gives) publish(own.filled, ++number);
    }
  pass_pieces(static_cast<std::uint32_t>(pieces) * static_cast<std::uint32_t>(steps));
}

// One step with `bytes` of the part that begins at `begin`: from `taken`, if any, to `given`, if any.
void Communicator::ring_step(const Collective& c, int step, std::uint64_t at, std::uint64_t begin, std::uint64_t bytes,
                             const char* taken, char* given) {
  if (bytes == 0) return;
  // A reduce_scatter writes its own part only, which is all of the output.
  char* const output = c.output + (c.kind == Kind::kAllReduce ? begin : 0) + at;
  if (step >= world_size_) {
    copy(output, taken, bytes);
    if (given != nullptr) copy(given, taken, bytes);
    return;
  }
  const bool last = step == world_size_ - 1;
  char* targets[2];
  int target_count = 0;
  if (last) targets[target_count++] = output;
  if (given != nullptr) targets[target_count++] = given;
  const char* const sources[2] = {taken, c.input + begin + at};
  const double factors[2] = {1.0, c.factor};
  const int first = taken == nullptr ? 1 : 0;
  const Reduction reduction = c.reduction == Reduction::kMean && !last ? Reduction::kSum : c.reduction;
  combine(targets, target_count, sources + first, 2 - first, static_cast<std::int64_t>(bytes / item_size(c.dtype)),
          c.dtype, {reduction, world_size_, factors + first});
  if (last) measure(c, output, bytes);
}

}  // namespace pyparallel::shm
