// The ways of each collective: through slots when small, straight between shared buffers, or in pieces through bounce
// buffers when an operand is ordinary memory. Rank order of summation everywhere.
//
//   slots          copy in | all posted | every rank combines all slots
//   shared         all posted | rank r combines part r of all buffers and writes it to all of them | all finished
//   one phase      per piece: copy in | all filled | every rank combines all pieces
//   two phases     per piece: copy in | all filled | rank r combines part r | all reduced | copy the other parts out
#include <algorithm>
#include <cstring>

#include "comm/shm/communicator.hpp"
#include "core/stream_copy.hpp"

namespace pyparallel::shm {
namespace {

constexpr std::uint64_t kLine = 64;

std::uint64_t pieces_of(std::uint64_t bytes, std::uint64_t piece_bytes) {
  return (bytes + piece_bytes - 1) / piece_bytes;
}

// Where part `part` of `parts` begins in `bytes`: whole cache lines each, the last takes the rest.
std::uint64_t part_begin(std::uint64_t bytes, int part, int parts) {
  if (part == parts) return bytes;
  const std::uint64_t lines = bytes / kLine / static_cast<std::uint64_t>(parts);
  return std::min(bytes, lines * kLine * static_cast<std::uint64_t>(part));
}

void copy(char* target, const char* source, std::uint64_t bytes) {
  if (bytes > 0 && target != source) std::memmove(target, source, bytes);
}

}  // namespace

template <typename Fill, typename Drain>
void Communicator::exchange(std::uint64_t pieces, const Fill& fill, const Drain& drain) {
  RankBlock& own = control_.rank(rank_);
  const auto put = [&](std::uint64_t p) {
    const std::uint32_t number = piece_ + static_cast<std::uint32_t>(p) + 1;
    await_all(&RankBlock::drained, number - 2);  // who last used this half of the buffer
    fill(p, control_.bounce(rank_, number));
    publish(own.filled, number);
  };
  for (std::uint64_t p = 0; p < pieces; ++p) {
    if (p == 0) put(0);
    if (p + 1 < pieces) put(p + 1);
    const std::uint32_t number = piece_ + static_cast<std::uint32_t>(p) + 1;
    drain(p, number);
    publish(own.drained, number);
  }
  piece_ += static_cast<std::uint32_t>(pieces);
}

void Communicator::all_reduce(const Collective& c) {
  if (through_slot(c)) return all_reduce_in_slots(c);
  if (all_shared(0, world_size_)) return all_reduce_shared(c);
  // Two ranks add every piece twice rather than wait once more; converting 16-bit floats twice would cost more.
  if (world_size_ <= 2 && item_size(c.dtype) >= 4) return all_reduce_one_phase(c);
  return all_reduce_two_phase(c);
}

void Communicator::all_reduce_in_slots(const Collective& c) {
  for (int r = 0; r < world_size_; ++r) buffers_[r] = control_.slot(r, sequence_);
  char* target = c.output;
  combine(&target, 1, buffers_.data(), world_size_, static_cast<std::int64_t>(c.count), c.dtype, c.reduction);
}

void Communicator::all_reduce_shared(const Collective& c) {
  const std::uint64_t bytes = c.count * item_size(c.dtype);
  const std::uint64_t begin = part_begin(bytes, rank_, world_size_), end = part_begin(bytes, rank_ + 1, world_size_);
  for (char*& buffer : buffers_) buffer += begin;
  combine(buffers_.data(), world_size_, buffers_.data(), world_size_,
          static_cast<std::int64_t>((end - begin) / item_size(c.dtype)), c.dtype, c.reduction);
  finish_shared();
}

void Communicator::all_reduce_one_phase(const Collective& c) {
  const std::uint64_t bytes = c.count * item_size(c.dtype);
  const auto size = [&](std::uint64_t p) { return std::min(kPieceBytes, bytes - p * kPieceBytes); };
  exchange(
      pieces_of(bytes, kPieceBytes),
      [&](std::uint64_t p, char* bounce) { stream_copy(bounce, c.input + p * kPieceBytes, size(p)); },
      [&](std::uint64_t p, std::uint32_t number) {
        char* target = c.output + p * kPieceBytes;
        await_all(&RankBlock::filled, number);
        for (int r = 0; r < world_size_; ++r) buffers_[r] = r == rank_ ? target : control_.bounce(r, number);
        combine(&target, 1, buffers_.data(), world_size_, static_cast<std::int64_t>(size(p) / item_size(c.dtype)),
                c.dtype, c.reduction);
      });
}

void Communicator::all_reduce_two_phase(const Collective& c) {
  const std::uint64_t bytes = c.count * item_size(c.dtype);
  const auto size = [&](std::uint64_t p) { return std::min(kPieceBytes, bytes - p * kPieceBytes); };
  const auto begin = [&](std::uint64_t p, int r) { return part_begin(size(p), r, world_size_); };
  exchange(
      pieces_of(bytes, kPieceBytes),
      [&](std::uint64_t p, char* bounce) {  // all but the own part, which is read where it lies
        const char* const source = c.input + p * kPieceBytes;
        const std::uint64_t own_begin = begin(p, rank_), own_end = begin(p, rank_ + 1);
        stream_copy(bounce, source, own_begin);
        stream_copy(bounce + own_end, source + own_end, size(p) - own_end);
      },
      [&](std::uint64_t p, std::uint32_t number) {
        char* const piece = c.output + p * kPieceBytes;
        const std::uint64_t own = begin(p, rank_), own_bytes = begin(p, rank_ + 1) - own;
        await_all(&RankBlock::filled, number);
        for (int r = 0; r < world_size_; ++r) buffers_[r] = (r == rank_ ? piece : control_.bounce(r, number)) + own;
        char* targets[2] = {piece + own, control_.bounce(rank_, number) + own};
        combine(targets, 2, buffers_.data(), world_size_, static_cast<std::int64_t>(own_bytes / item_size(c.dtype)),
                c.dtype, c.reduction);
        publish(control_.rank(rank_).reduced, number);
        for (int step = 1; step < world_size_; ++step) {
          const int r = (rank_ + step) % world_size_;
          await(&RankBlock::reduced, r, number);
          copy(piece + begin(p, r), control_.bounce(r, number) + begin(p, r), begin(p, r + 1) - begin(p, r));
        }
      });
}

void Communicator::broadcast(const Collective& c) {
  const std::uint64_t bytes = c.count * item_size(c.dtype);
  if (through_slot(c)) return copy(c.output, rank_ == c.root ? c.input : control_.slot(c.root, sequence_), bytes);
  if (all_shared(c.root, c.root + 1)) {
    copy(c.output, rank_ == c.root ? c.input : buffers_[c.root], bytes);
    return finish_shared();
  }
  const auto size = [&](std::uint64_t p) { return std::min(kPieceBytes, bytes - p * kPieceBytes); };
  exchange(
      pieces_of(bytes, kPieceBytes),
      [&](std::uint64_t p, char* bounce) {
        if (rank_ == c.root) stream_copy(bounce, c.input + p * kPieceBytes, size(p));
      },
      [&](std::uint64_t p, std::uint32_t number) {
        if (rank_ == c.root) return;
        await(&RankBlock::filled, c.root, number);
        copy(c.output + p * kPieceBytes, control_.bounce(c.root, number), size(p));
      });
}

void Communicator::all_gather(const Collective& c) {
  const std::uint64_t bytes = c.count * item_size(c.dtype);
  const bool slots = through_slot(c);
  if (slots || all_shared(0, world_size_)) {
    for (int r = 0; r < world_size_; ++r)
      copy(c.output + static_cast<std::uint64_t>(r) * bytes,
           r == rank_ ? c.input : (slots ? control_.slot(r, sequence_) : buffers_[r]), bytes);
    if (!slots) finish_shared();
    return;
  }
  copy(c.output + static_cast<std::uint64_t>(rank_) * bytes, c.input, bytes);
  const char* const own = c.output + static_cast<std::uint64_t>(rank_) * bytes;
  const auto size = [&](std::uint64_t p) { return std::min(kPieceBytes, bytes - p * kPieceBytes); };
  exchange(
      pieces_of(bytes, kPieceBytes),
      [&](std::uint64_t p, char* bounce) { stream_copy(bounce, own + p * kPieceBytes, size(p)); },
      [&](std::uint64_t p, std::uint32_t number) {
        for (int step = 1; step < world_size_; ++step) {
          const int r = (rank_ + step) % world_size_;
          await(&RankBlock::filled, r, number);
          copy(c.output + static_cast<std::uint64_t>(r) * bytes + p * kPieceBytes, control_.bounce(r, number), size(p));
        }
      });
}

void Communicator::reduce_scatter(const Collective& c) {
  const std::uint64_t bytes = c.count * item_size(c.dtype);
  const auto part = [&](int r) { return static_cast<std::uint64_t>(r) * bytes; };
  const auto combine_into = [&](char* target, std::uint64_t size) {
    combine(&target, 1, buffers_.data(), world_size_, static_cast<std::int64_t>(size / item_size(c.dtype)), c.dtype,
            c.reduction);
  };
  const bool slots = through_slot(c);
  if (slots || all_shared(0, world_size_)) {
    for (int r = 0; r < world_size_; ++r)
      buffers_[r] = (slots ? control_.slot(r, sequence_) : buffers_[r]) + part(rank_);
    combine_into(c.output, bytes);
    if (!slots) finish_shared();
    return;
  }
  // A piece of the bounce buffer holds one sub-piece for every rank.
  const std::uint64_t sub_piece = kPieceBytes / static_cast<std::uint64_t>(world_size_) / kLine * kLine;
  const auto size = [&](std::uint64_t p) { return std::min(sub_piece, bytes - p * sub_piece); };
  exchange(
      pieces_of(bytes, sub_piece),
      [&](std::uint64_t p, char* bounce) {
        for (int r = 0; r < world_size_; ++r)
          if (r != rank_)
            stream_copy(bounce + static_cast<std::uint64_t>(r) * sub_piece, c.input + part(r) + p * sub_piece, size(p));
      },
      [&](std::uint64_t p, std::uint32_t number) {
        await_all(&RankBlock::filled, number);
        for (int r = 0; r < world_size_; ++r)
          buffers_[r] = r == rank_ ? const_cast<char*>(c.input) + part(rank_) + p * sub_piece
                                   : control_.bounce(r, number) + static_cast<std::uint64_t>(rank_) * sub_piece;
        combine_into(c.output + p * sub_piece, size(p));
      });
}

}  // namespace pyparallel::shm
