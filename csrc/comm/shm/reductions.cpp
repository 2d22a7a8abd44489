// The ways of each reduction: through slots when small, straight between shared buffers, or in pieces through bounce
// buffers when an operand is ordinary memory. Rank order of summation everywhere, one rounding.
//
//   slots          copy in | all posted | every rank combines all slots
//   shared         all posted | rank r combines part r of all buffers and writes it to all of them | all finished
//   one phase      per piece: copy in | all filled | who wants the result combines all pieces
//   two phases     per piece: copy in | all filled | rank r combines part r | all reduced | copy the other parts out
#include "comm/shm/pieces.hpp"
#include "kernels/reduce.hpp"

namespace pyparallel::shm {
namespace {

// What is measured is combined in steps so small that those of a few ranks' buffers fit a core's second cache.
constexpr std::uint64_t kMeasuredBytes = 64 << 10;

}  // namespace

// Combines buffers_, one source per rank: at once, or in steps. Between them another communicator can go first, and
// after each the squares of what it has written are added up while that is still in the cache.
void Communicator::combine_sources(char* const* targets, int target_count, std::uint64_t bytes, const Collective& c,
                                   Combined where) {
  Combination combination{c.reduction, world_size_};
  if (c.reduction == Reduction::kPremultiplied) {
    for (int r = 0; r < world_size_; ++r) factors_[r] = operation(r).factor;
    combination.factors = factors_.data();
  }
  const auto combine_all = [&](char* const* places, std::uint64_t some) {
    combine(places, target_count, buffers_.data(), world_size_, static_cast<std::int64_t>(some / item_size(c.dtype)),
            c.dtype, combination);
  };
  if (c.squares == nullptr && !ahead_.load(std::memory_order_acquire)) return combine_all(targets, bytes);
  const std::uint64_t step = c.squares == nullptr ? kPieceBytes : kMeasuredBytes;
  const int first = where == Combined::kHere ? 0 : rank_, parts = where == Combined::kHere ? 1 : world_size_;
  std::vector<char*> places(targets, targets + target_count);
  for (std::uint64_t at = 0; at < bytes; at += step) {
    const std::uint64_t some = std::min(step, bytes - at), begin = part_begin(some, first, parts);
    give_way();
    combine_all(places.data(), some);
    measure(c, places.front() + begin, part_begin(some, first + 1, parts) - begin);
    for (char*& place : places) place += step;
    for (char*& buffer : buffers_) buffer += step;
  }
}

// In one thread, whoever runs the collective: the order of additions depends on the sizes alone.
void Communicator::measure(const Collective& c, const char* values, std::uint64_t bytes) {
  if (c.squares == nullptr) return;
  const ReduceItem item{values, static_cast<std::int64_t>(bytes / item_size(c.dtype))};
  double part[2];
  sum_of_squares_cpu(&item, 1, c.dtype, part, 1);
  squares_[0] += part[0];
  if (part[1] != 0.0) squares_[1] = 1.0;
}

void Communicator::all_reduce(const Collective& c) {
  if (through_slot(c)) {
    // What this rank gave it reads where it still has it, not where the peers are reading.
    for (int r = 0; r < world_size_; ++r) buffers_[r] = r == rank_ ? c.output : control_.slot(r, sequence_);
    char* target = c.output;
    return combine_sources(&target, 1, c.count * item_size(c.dtype), c, Combined::kEverywhere);
  }
  if (all_shared()) return all_reduce_shared(c);
  // Two ranks add every piece twice rather than wait once more.
  if (world_size_ <= 2) return reduce_one_phase(c, true);
  return all_reduce_two_phase(c);
}

void Communicator::reduce(const Collective& c) {
  const bool wanted = rank_ == c.root;
  if (!through_slot(c)) return all_shared() ? all_reduce_shared(c) : reduce_one_phase(c, wanted);
  if (!wanted) return;
  for (int r = 0; r < world_size_; ++r) buffers_[r] = r == rank_ ? c.output : control_.slot(r, sequence_);
  char* target = c.output;
  combine_sources(&target, 1, c.count * item_size(c.dtype), c, Combined::kHere);
}

// All ranks' buffers are written, or only the root's in a reduce.
void Communicator::all_reduce_shared(const Collective& c) {
  const std::uint64_t bytes = c.count * item_size(c.dtype);
  const std::uint64_t begin = part_begin(bytes, rank_, world_size_), end = part_begin(bytes, rank_ + 1, world_size_);
  for (char*& buffer : buffers_) buffer += begin;
  const bool everywhere = c.kind == Kind::kAllReduce;
  combine_sources(buffers_.data() + (everywhere ? 0 : c.root), everywhere ? world_size_ : 1, end - begin, c,
                  Combined::kHere);
  finish_shared();
}

void Communicator::reduce_one_phase(const Collective& c, bool wanted) {
  const std::uint64_t bytes = c.count * item_size(c.dtype);
  exchange(
      pieces_of(bytes, kPieceBytes), c.kind == Kind::kAllReduce || !wanted,
      [&](std::uint64_t p, char* bounce) {
        stream_copy(bounce, c.input + p * kPieceBytes, piece_size(bytes, p, kPieceBytes));
      },
      [&](std::uint64_t p, std::uint32_t number) {
        if (!wanted) return;
        char* target = c.output + p * kPieceBytes;
        await_all(&RankBlock::filled, number);
        for (int r = 0; r < world_size_; ++r) buffers_[r] = r == rank_ ? target : control_.bounce(r, number);
        combine_sources(&target, 1, piece_size(bytes, p, kPieceBytes), c, Combined::kEverywhere);
      });
}

void Communicator::all_reduce_two_phase(const Collective& c) {
  const std::uint64_t bytes = c.count * item_size(c.dtype);
  const auto begin = [&](std::uint64_t p, int r) {
    return part_begin(piece_size(bytes, p, kPieceBytes), r, world_size_);
  };
  exchange(
      pieces_of(bytes, kPieceBytes), true,
      [&](std::uint64_t p, char* bounce) {  // all but the own part, which is read where it lies
        const char* const source = c.input + p * kPieceBytes;
        const std::uint64_t own_begin = begin(p, rank_), own_end = begin(p, rank_ + 1);
        stream_copy(bounce, source, own_begin);
        stream_copy(bounce + own_end, source + own_end, piece_size(bytes, p, kPieceBytes) - own_end);
      },
      [&](std::uint64_t p, std::uint32_t number) {
        char* const piece = c.output + p * kPieceBytes;
        const std::uint64_t own = begin(p, rank_), own_bytes = begin(p, rank_ + 1) - own;
        await_all(&RankBlock::filled, number);
        for (int r = 0; r < world_size_; ++r) buffers_[r] = (r == rank_ ? piece : control_.bounce(r, number)) + own;
        char* targets[2] = {piece + own, control_.bounce(rank_, number) + own};
        combine_sources(targets, 2, own_bytes, c, Combined::kHere);
        publish(control_.rank(rank_).reduced, number);
        for (int step = 1; step < world_size_; ++step) {
          const int r = (rank_ + step) % world_size_;
          await(&RankBlock::reduced, r, number);
          copy(piece + begin(p, r), control_.bounce(r, number) + begin(p, r), begin(p, r + 1) - begin(p, r));
        }
      });
}

void Communicator::reduce_scatter(const Collective& c) {
  const std::uint64_t bytes = c.count * item_size(c.dtype);
  const auto part = [&](int r) { return static_cast<std::uint64_t>(r) * bytes; };
  const bool slots = through_slot(c);
  if (slots || all_shared()) {
    for (int r = 0; r < world_size_; ++r)
      buffers_[r] = (slots ? control_.slot(r, sequence_) : buffers_[r]) + part(rank_);
    char* target = c.output;
    combine_sources(&target, 1, bytes, c, Combined::kHere);
    if (!slots) finish_shared();
    return;
  }
  // A piece of the bounce buffer holds one sub-piece for every rank.
  const std::uint64_t sub_piece = kPieceBytes / static_cast<std::uint64_t>(world_size_) / kLine * kLine;
  exchange(
      pieces_of(bytes, sub_piece), true,
      [&](std::uint64_t p, char* bounce) {
        for (int r = 0; r < world_size_; ++r)
          if (r != rank_)
            stream_copy(bounce + static_cast<std::uint64_t>(r) * sub_piece, c.input + part(r) + p * sub_piece,
                        piece_size(bytes, p, sub_piece));
      },
      [&](std::uint64_t p, std::uint32_t number) {
        await_all(&RankBlock::filled, number);
        for (int r = 0; r < world_size_; ++r)
          buffers_[r] = r == rank_ ? const_cast<char*>(c.input) + part(rank_) + p * sub_piece
                                   : control_.bounce(r, number) + static_cast<std::uint64_t>(rank_) * sub_piece;
        char* target = c.output + p * sub_piece;
        combine_sources(&target, 1, piece_size(bytes, p, sub_piece), c, Combined::kHere);
      });
}

}  // namespace pyparallel::shm
