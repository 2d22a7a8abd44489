// The ring: in step s rank r sends chunk r - 1 - s to rank r + 1 and adds its own values to chunk r - 2 - s, which
// comes from rank r - 1; after world_size - 1 steps it holds chunk r. For an all_reduce the chunks then go round once
// more.
//
// Chunks travel in pieces, numbered i over all steps. Piece i arrives in slot i % 2 of the scratch memory, so it waits
// for the addition of piece i - 2; the piece that is sent was added a step before, which is no later.
#include <algorithm>

#include "comm/nccl/parts.hpp"
#include "core/cuda_check.hpp"

namespace pyparallel::nccl {
namespace {

inline constexpr int kReceived = 2;  // event; 0 and 1 are those of the additions into the two slots

class Ring {
 public:
  Ring(const Parts& parts, const Combination& combination)
      : parts_(parts),
        combination_(combination),
        comm_(parts.comm),
        world_size_(comm_.world_size()),
        rank_(comm_.rank()),
        piece_(std::max<std::size_t>(1, combination.piece_bytes / 16) * (16 / item_size(parts.dtype))),
        pieces_(std::max<std::size_t>(1, (parts.largest() + piece_ - 1) / piece_)) {
    piece_ = std::min(piece_, std::max<std::size_t>(1, parts.largest()));
    allocate();
  }

  void run() {
    if (world_size_ == 1) return alone();
    if (combination_.factor) multiply_first();
    for (int step = 0; step < world_size_ - 1; ++step)
      for (std::size_t k = 0; k < pieces_; ++k) reduce_piece(step, k);
    parts_.wait(comm_.comm_stream(), comm_.compute_stream(), 0);  // and with it for all additions
    parts_.measure(partials_, partial_count_);
    if (!parts_.scattered())
      for (int step = 0; step < world_size_ - 1; ++step) gather(step);
  }

 private:
  struct Range {
    std::size_t begin, count;  // elements, in the chunk
  };

  void allocate() {
    const std::size_t slot = aligned(parts_.bytes(piece_));
    const std::size_t sum = parts_.scattered() ? aligned(parts_.bytes(parts_.largest())) : 0;
    for (std::size_t k = 0; k < pieces_ && combination_.squares != nullptr; ++k)
      partial_count_ += accumulate_partials(static_cast<std::int64_t>(range(rank_, k).count));
    const std::size_t partial_bytes = static_cast<std::size_t>(partial_count_) * sizeof(SquaresPartial);
    char* const memory = static_cast<char*>(comm_.scratch(2 * slot + 2 * sum + partial_bytes));
    for (std::size_t i = 0; i < 2; ++i) {
      slots_[i] = memory + slot * i;
      sums_[i] = memory + 2 * slot + sum * i;
    }
    partials_ = reinterpret_cast<SquaresPartial*>(memory + 2 * slot + 2 * sum);
  }

  int wrapped(int index) const { return ((index % world_size_) + world_size_) % world_size_; }
  int next() const { return wrapped(rank_ + 1); }
  int previous() const { return wrapped(rank_ - 1); }

  Range range(int chunk, std::size_t k) const {
    const std::size_t count = parts_.chunk(chunk).count, begin = std::min(count, k * piece_);
    return {begin, std::min(piece_, count - begin)};
  }

  // Where the sum of a step goes. A reduce_scatter leaves its input alone; what step s has added is sent in step s + 1.
  char* sum(int step, int chunk) const {
    return !parts_.scattered() || step == world_size_ - 2 ? parts_.result(chunk) : sums_[(step + 2) % 2];
  }

  const char* sent(int step, int chunk) const {
    if (step > 0 || combination_.factor) return sum(step - 1, chunk);
    return parts_.own(chunk);
  }

  // The chunk that this rank sends first is nobody's to multiply but its own.
  void multiply_first() {
    const int chunk = wrapped(rank_ - 1);
    parts_.scale(parts_.own(chunk), sum(-1, chunk), parts_.chunk(chunk).count, false, nullptr, comm_.comm_stream());
  }

  void reduce_piece(int step, std::size_t k) {
    const int out = wrapped(rank_ - 1 - step), in = wrapped(rank_ - 2 - step);
    const std::size_t i = static_cast<std::size_t>(step) * pieces_ + k, behind = std::min<std::size_t>(pieces_, 2);
    if (i >= behind)
      check_cuda(cudaStreamWaitEvent(comm_.comm_stream(), comm_.event(static_cast<int>((i - behind) % 2)), 0),
                 "cudaStreamWaitEvent");
    const Range leaving = range(out, k), coming = range(in, k);
    transfer(sent(step, out) + parts_.bytes(leaving.begin), leaving.count, slots_[i % 2], coming.count);
    parts_.wait(comm_.compute_stream(), comm_.comm_stream(), kReceived);
    add(step, in, coming, slots_[i % 2]);
    check_cuda(cudaEventRecord(comm_.event(static_cast<int>(i % 2)), comm_.compute_stream()), "cudaEventRecord");
  }

  void add(int step, int chunk, const Range& piece, const char* received) {
    const bool last = step == world_size_ - 2, measured = last && combination_.squares != nullptr;
    const double factors[] = {1.0, combination_.factor.value_or(1.0)};
    const std::size_t begin = parts_.bytes(piece.begin);
    parts_.combine({received, parts_.own(chunk) + begin}, combination_.factor ? factors : nullptr,
                   sum(step, chunk) + begin, piece.count, last, measured ? partials_ + filled_ : nullptr,
                   comm_.compute_stream());
    if (measured) filled_ += accumulate_partials(static_cast<std::int64_t>(piece.count));
  }

  void gather(int step) {
    const int out = wrapped(rank_ - step), in = wrapped(rank_ - 1 - step);
    transfer(parts_.result(out), parts_.chunk(out).count, parts_.result(in), parts_.chunk(in).count);
  }

  // To the next rank and from the previous one, at once.
  void transfer(const char* source, std::size_t to_send, char* target, std::size_t to_receive) {
    if (to_send == 0 && to_receive == 0) return;
    const Library& library = comm_.library();
    comm_.group("ring", [&](Comm handle) {
      Result result = Result::kSuccess;
      if (to_send > 0)
        result = settled(library.Send(source, to_send, parts_.type, next(), handle, comm_.comm_stream()));
      if (result == Result::kSuccess && to_receive > 0)
        result = settled(library.Recv(target, to_receive, parts_.type, previous(), handle, comm_.comm_stream()));
      return result;
    });
  }

  void alone() {
    for (std::size_t k = 0; k < pieces_; ++k) {
      const Range piece = range(0, k);
      const std::size_t begin = parts_.bytes(piece.begin);
      parts_.scale(parts_.own(0) + begin, parts_.result(0) + begin, piece.count, true,
                   combination_.squares != nullptr ? partials_ + filled_ : nullptr, comm_.comm_stream());
      filled_ += accumulate_partials(static_cast<std::int64_t>(piece.count));
    }
    parts_.measure(partials_, partial_count_);
  }

  const Parts& parts_;
  const Combination& combination_;
  Communicator& comm_;
  const int world_size_, rank_;
  std::size_t piece_, pieces_;  // elements of a piece, pieces of a chunk
  char *slots_[2], *sums_[2];
  SquaresPartial* partials_ = nullptr;
  std::int64_t partial_count_ = 0, filled_ = 0;
};

}  // namespace

void ring(const Parts& parts, const Combination& combination) { Ring(parts, combination).run(); }

}  // namespace pyparallel::nccl
