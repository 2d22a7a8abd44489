// The operations that only move: broadcast, all_gather, gather, scatter and all_to_all, which differ in who gives how
// much to whom. What a rank gives reaches the others through its slot if it is small, straight from its buffer if that
// is shared, or in pieces through its bounce buffer; a byte is copied to those who get it and to nobody else.
#include "comm/shm/pieces.hpp"

namespace pyparallel::shm {

// Who gives how many bytes to whom.
class Routes {
 public:
  Routes(ControlBlock& control, std::uint32_t sequence, const Collective& c)
      : control_(control),
        sequence_(sequence),
        c_(c),
        world_size_(static_cast<int>(control.world_size)),
        bytes_(c.count == kUnequal ? 0 : c.count * item_size(c.dtype)) {}

  // Whether a rank gives every other rank something else, so that its input consists of parts.
  bool individual() const { return c_.kind == Kind::kScatter || c_.kind == Kind::kAllToAll; }

  std::uint64_t bytes(int from, int to) const {
    switch (c_.kind) {
      case Kind::kAllGather:
        return bytes_;
      case Kind::kGather:
        return to == c_.root ? bytes_ : 0;
      case Kind::kAllToAll:
        return control_.input_size(from, sequence_, to) * item_size(c_.dtype);
      default:  // broadcast and scatter
        return from == c_.root ? bytes_ : 0;
    }
  }

  // The most that a rank gives to another.
  std::uint64_t largest(int from) const {
    std::uint64_t most = 0;
    for (int to = 0; to < world_size_; ++to)
      if (to != from) most = std::max(most, bytes(from, to));
    return most;
  }

  // Bytes before what rank `to` gets in the input of rank `from`; with to == world_size, of the whole input.
  std::uint64_t offset(int from, int to) const {
    std::uint64_t sum = 0;
    for (int r = 0; individual() && r < to; ++r) sum += bytes(from, r);
    return sum;
  }
  std::uint64_t input(int from) const { return individual() ? offset(from, world_size_) : bytes_; }

 private:
  ControlBlock& control_;
  std::uint32_t sequence_;
  const Collective& c_;
  int world_size_;
  std::uint64_t bytes_;
};

void Communicator::move(const Collective& c) {
  const Routes routes(control_, sequence_, c);
  std::uint64_t longest = 0;  // of what goes through bounce buffers
  bool bounces = false, shared = false;
  char* target = c.output;
  for (int from = 0; from < world_size_; ++from) {
    const Operation& given = operation(from);
    const bool in_slot = fits_slot(routes.input(from), given.count);
    const bool in_segment = !in_slot && given.segment != kPrivate;
    const std::uint64_t most = routes.largest(from), offset = routes.offset(from, rank_);
    if (in_segment && most > 0) shared = true;
    if (!in_slot && !in_segment) longest = std::max(longest, most);
    if (!in_slot && !in_segment && from == rank_) bounces = most > 0;
    Parcel& parcel = incoming_[from];
    parcel = {nullptr, target, routes.bytes(from, rank_)};
    target += parcel.bytes;
    if (parcel.bytes == 0) continue;
    if (from == rank_)
      parcel.source = c.input + offset;
    else if (in_slot)
      parcel.source = control_.slot(from, sequence_) + slot_header(given.count) + offset;
    else if (in_segment)
      parcel.source = peer_memory_.map(from, given) + offset;
  }
  for (int step = 0; step < world_size_; ++step) {
    const Parcel& parcel = incoming_[(rank_ + step) % world_size_];
    if (parcel.source != nullptr) copy(parcel.target, parcel.source, parcel.bytes);
  }
  if (longest > 0) move_in_pieces(c, routes, longest, bounces);
  if (shared) finish_shared();
}

void Communicator::move_in_pieces(const Collective& c, const Routes& routes, std::uint64_t longest, bool gives) {
  // A piece of the bounce buffer holds a lane for every rank that gets something else.
  const int lanes = routes.individual() ? world_size_ : 1;
  const std::uint64_t lane = kPieceBytes / static_cast<std::uint64_t>(lanes) / kLine * kLine;
  exchange(
      pieces_of(longest, lane), gives,
      [&](std::uint64_t p, char* bounce) {
        const char* source = c.input;
        for (int to = 0; to < lanes; ++to) {
          const std::uint64_t bytes = lanes > 1 ? routes.bytes(rank_, to) : routes.largest(rank_);
          const std::uint64_t size = lanes > 1 && to == rank_ ? 0 : piece_size(bytes, p, lane);
          if (size > 0) stream_copy(bounce + static_cast<std::uint64_t>(to) * lane, source + p * lane, size);
          source += bytes;
        }
      },
      [&](std::uint64_t p, std::uint32_t number) {
        const std::uint64_t own_lane = lanes > 1 ? static_cast<std::uint64_t>(rank_) * lane : 0;
        for (int step = 1; step < world_size_; ++step) {
          const int from = (rank_ + step) % world_size_;
          const Parcel& parcel = incoming_[from];
          const std::uint64_t size = piece_size(parcel.bytes, p, lane);
          if (parcel.source != nullptr || size == 0) continue;
          await(&RankBlock::filled, from, number);
          copy(parcel.target + p * lane, control_.bounce(from, number) + own_lane, size);
        }
      });
}

}  // namespace pyparallel::shm
