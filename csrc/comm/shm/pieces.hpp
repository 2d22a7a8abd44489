// How a large operand is cut into pieces and passes through the ranks' bounce buffers.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "comm/shm/communicator.hpp"
#include "core/stream_copy.hpp"

namespace pyparallel::shm {

inline constexpr std::uint64_t kLine = 64;

inline std::uint64_t pieces_of(std::uint64_t bytes, std::uint64_t piece_bytes) {
  return (bytes + piece_bytes - 1) / piece_bytes;
}

// Bytes of piece p, 0 behind the end.
inline std::uint64_t piece_size(std::uint64_t bytes, std::uint64_t p, std::uint64_t piece_bytes) {
  return std::min(piece_bytes, bytes - std::min(bytes, p * piece_bytes));
}

// Where part `part` of `parts` begins in `bytes`: whole cache lines each, the last takes the rest.
inline std::uint64_t part_begin(std::uint64_t bytes, int part, int parts) {
  if (part == parts) return bytes;
  const std::uint64_t lines = bytes / kLine / static_cast<std::uint64_t>(parts);
  return std::min(bytes, lines * kLine * static_cast<std::uint64_t>(part));
}

inline void copy(char* target, const char* source, std::uint64_t bytes) {
  if (bytes > 0 && target != source) std::memmove(target, source, bytes);
}

// Runs `pieces` pieces through the bounce buffers: fill(piece, own bounce) one ahead of drain(piece, number). A rank
// that gives nothing does not fill.
template <typename Fill, typename Drain>
void Communicator::exchange(std::uint64_t pieces, bool gives, const Fill& fill, const Drain& drain) {
  RankBlock& own = control_.rank(rank_);
  const auto put = [&](std::uint64_t p) {
    if (!gives) return;
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
  pass_pieces(static_cast<std::uint32_t>(pieces));
}

// Counts pieces that all ranks have passed. Counters that these did not need follow, or they would fall so far behind
// in a long job that they compared as ahead.
inline void Communicator::pass_pieces(std::uint32_t pieces) {
  piece_ += pieces;
  RankBlock& own = control_.rank(rank_);
  for (Flag* flag : {&own.filled, &own.reduced, &own.drained}) flag->value.store(piece_, std::memory_order_release);
}

}  // namespace pyparallel::shm
