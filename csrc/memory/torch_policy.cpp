// See torch_policy.hpp.
#include "memory/torch_policy.hpp"

#include <algorithm>

namespace pyparallel::memory {
namespace {

constexpr std::uint64_t kBlock = 512, kMiB = 1 << 20;
constexpr std::uint64_t kSmall = kMiB, kSmallSegment = 2 * kMiB, kLargeSegment = 20 * kMiB,
                        kLeastOwnSegment = 10 * kMiB;
constexpr std::uint64_t kSegmentSpacing = std::uint64_t{1} << 44;  // addresses between segments

std::uint64_t round_up(std::uint64_t num_bytes, std::uint64_t multiple) {
  return (num_bytes + multiple - 1) / multiple * multiple;
}

std::uint64_t segment_size(std::uint64_t num_bytes) {
  if (num_bytes <= kSmall) return kSmallSegment;
  return num_bytes < kLeastOwnSegment ? kLargeSegment : round_up(num_bytes, 2 * kMiB);
}

}  // namespace

std::uint64_t TorchPolicy::allocate(std::uint64_t num_bytes, std::uint64_t stream) {
  const std::uint64_t size = std::max(round_up(num_bytes, kBlock), kBlock);
  const bool small = size <= kSmall;
  Index& index = free_[{stream, small}];
  const auto found = index.lower_bound({size, 0});
  const auto place = found == index.end() ? grow(size, stream, small) : pieces_.find(found->second);
  Piece& piece = place->second;
  index.erase({piece.num_bytes, piece.address});
  piece.free = false;
  if (should_split(piece, size)) {
    Piece rest = piece;
    rest.address += size, rest.num_bytes -= size, rest.free = true;
    piece.num_bytes = size;
    pieces_[rest.address] = rest;
    index.insert({rest.num_bytes, rest.address});
  }
  return piece.address;
}

bool TorchPolicy::should_split(const Piece& piece, std::uint64_t size) const {
  const std::uint64_t rest = piece.num_bytes - size;
  return piece.small || expandable_ ? rest >= kBlock : rest > kMiB;
}

TorchPolicy::Pieces::iterator TorchPolicy::grow(std::uint64_t size, std::uint64_t stream, bool small) {
  if (!expandable_) {
    const std::uint64_t num_bytes = segment_size(size), segment = next_segment_++;
    reserved_ += num_bytes;
    return add_free({segment * kSegmentSpacing, num_bytes, segment, stream, small, true});
  }
  auto [end, is_new] = ends_.try_emplace({stream, small}, 0);
  if (is_new) end->second = next_segment_++ * kSegmentSpacing;
  const std::uint64_t segment = (end->second - 1) / kSegmentSpacing + (is_new ? 1 : 0);
  std::uint64_t lacks = size;
  if (const auto last = pieces_.lower_bound(end->second); !is_new && last != pieces_.begin())
    if (const Piece& piece = std::prev(last)->second; piece.segment == segment && piece.free) lacks -= piece.num_bytes;
  const std::uint64_t num_bytes = round_up(lacks, small ? kSmallSegment : kLargeSegment);
  const Piece added = {end->second, num_bytes, segment, stream, small, true};
  reserved_ += num_bytes;
  end->second += num_bytes;
  return add_free(added);
}

// Merges with free neighbours of the same segment.
TorchPolicy::Pieces::iterator TorchPolicy::add_free(const Piece& piece) {
  Index& index = free_[{piece.stream, piece.small}];
  auto place = pieces_.insert_or_assign(piece.address, piece).first;
  place->second.free = true;
  const auto joins = [&](const Piece& other) { return other.free && other.segment == piece.segment; };
  if (const auto after = std::next(place); after != pieces_.end() && joins(after->second)) {
    index.erase({after->second.num_bytes, after->first});
    place->second.num_bytes += after->second.num_bytes;
    pieces_.erase(after);
  }
  if (place != pieces_.begin()) {
    if (const auto before = std::prev(place); joins(before->second)) {
      index.erase({before->second.num_bytes, before->first});
      before->second.num_bytes += place->second.num_bytes;
      pieces_.erase(place);
      place = before;
    }
  }
  index.insert({place->second.num_bytes, place->first});
  return place;
}

void TorchPolicy::free(std::uint64_t address) { add_free(Piece(pieces_.at(address))); }

}  // namespace pyparallel::memory
