// What a collective needs of its arguments, how it reads in messages, and where two ranks differ.
#include "comm/shm/collective.hpp"

#include <numeric>

#include "core/error.hpp"

namespace pyparallel::shm {
namespace {

bool reduces(Kind kind) { return kind == Kind::kAllReduce || kind == Kind::kReduce || kind == Kind::kReduceScatter; }

// Whether the squares of its result can be summed.
bool is_measured(const Collective& c) {
  const bool sums =
      c.reduction == Reduction::kSum || c.reduction == Reduction::kMean || c.reduction == Reduction::kPremultiplied;
  return (c.kind == Kind::kAllReduce || c.kind == Kind::kReduceScatter) && sums && c.dtype <= DType::kFloat16;
}

std::string number(std::uint64_t value) { return std::to_string(value); }

std::uint64_t sum(const std::vector<std::uint64_t>& sizes) {
  return std::accumulate(sizes.begin(), sizes.end(), std::uint64_t{0});
}

// Elements that a collective reads from its input and writes to its output.
struct Extent {
  std::uint64_t input, output;
};

Extent extent(const Collective& c, int rank, int world_size) {
  const std::uint64_t ranks = static_cast<std::uint64_t>(world_size);
  switch (c.kind) {
    case Kind::kAllReduce:
    case Kind::kReduce:
    case Kind::kBroadcast:
      return {c.count, c.count};
    case Kind::kAllGather:
      return {c.count, c.count * ranks};
    case Kind::kReduceScatter:
      return {c.count * ranks, c.count};
    case Kind::kGather:
      return {c.count, rank == c.root ? c.count * ranks : 0};
    case Kind::kScatter:
      return {rank == c.root ? c.count * ranks : 0, c.count};
    case Kind::kAllToAll:
      if (c.count != kUnequal) return {c.count * ranks, c.count * ranks};
      return {sum(c.input_sizes), sum(c.output_sizes)};
    case Kind::kBarrier:
      return {0, 0};
  }
  return {0, 0};
}

// In place an input is the output, or this rank's part of the larger of the two. all_to_all cannot work in place.
bool may_overlap(const Collective& c, int rank, std::uint64_t input_bytes, std::uint64_t output_bytes) {
  const char* const first = c.output;
  if (c.input + input_bytes <= first || first + output_bytes <= c.input) return true;
  if (c.kind == Kind::kAllToAll) return false;
  const auto own = static_cast<std::uint64_t>(rank);
  return input_bytes < output_bytes
             ? c.input == first + own * input_bytes
             : first == c.input + own * output_bytes || (input_bytes == output_bytes && first == c.input);
}

}  // namespace

const char* name(Kind kind) {
  switch (kind) {
    case Kind::kAllReduce:
      return "all_reduce";
    case Kind::kBroadcast:
      return "broadcast";
    case Kind::kAllGather:
      return "all_gather";
    case Kind::kReduceScatter:
      return "reduce_scatter";
    case Kind::kBarrier:
      return "barrier";
    case Kind::kReduce:
      return "reduce";
    case Kind::kGather:
      return "gather";
    case Kind::kScatter:
      return "scatter";
    case Kind::kAllToAll:
      return "all_to_all";
  }
  return "unknown";
}

const char* name(Algorithm algorithm) { return algorithm == Algorithm::kRing ? "ring" : "direct"; }

bool has_root(Kind kind) {
  return kind == Kind::kBroadcast || kind == Kind::kReduce || kind == Kind::kGather || kind == Kind::kScatter;
}

void Collective::set_sizes(int world_size, std::vector<std::uint64_t> output, std::vector<std::uint64_t> input) {
  const std::vector<std::uint64_t> equal(static_cast<std::size_t>(world_size), input.empty() ? 0 : input.front());
  if (input == equal && output == equal) {
    count = equal.front();
    return;
  }
  count = kUnequal;
  output_sizes = std::move(output);
  input_sizes = std::move(input);
}

void validate(const Collective& c, int rank, int world_size) {
  const std::string what = name(c.kind);
  if (has_root(c.kind) && (c.root < 0 || c.root >= world_size))
    throw InvalidArgument(what + ": root " + std::to_string(c.root) + " is not in a world of " +
                          std::to_string(world_size));
  if (reduces(c.kind) && !is_combined(c.dtype, c.reduction))
    throw InvalidArgument(what + ": there is no " + name(c.reduction) + " of " + name(c.dtype));
  if (c.squares != nullptr && !is_measured(c))
    throw InvalidArgument(what + ": squares only of sums of floats in all_reduce and reduce_scatter, not of " +
                          name(c.reduction) + " of " + name(c.dtype));
  for (const auto* sizes : {&c.input_sizes, &c.output_sizes})
    if (sizes->size() != (c.count == kUnequal ? static_cast<std::size_t>(world_size) : 0))
      throw InvalidArgument(what + ": " + number(sizes->size()) + " sizes in a world of " + std::to_string(world_size));
  const auto [input, output] = extent(c, rank, world_size);
  if ((input > 0 && c.input == nullptr) || (output > 0 && c.output == nullptr))
    throw InvalidArgument(what + ": null pointer with elements behind it (a meta, fake or DTensor?)");
  if (input == 0 || output == 0) return;
  if (!may_overlap(c, rank, input * item_size(c.dtype), output * item_size(c.dtype)))
    throw InvalidArgument(what + ": input and output overlap" +
                          (c.kind == Kind::kAllToAll ? "" : ", and neither is this rank's part of the other"));
}

std::uint64_t input_bytes(const Collective& c, int world_size) {
  const std::uint64_t bytes = c.count * item_size(c.dtype);
  switch (c.kind) {
    case Kind::kReduceScatter:
    case Kind::kScatter:
      return bytes * static_cast<std::uint64_t>(world_size);
    case Kind::kAllToAll:
      return c.count == kUnequal ? sum(c.input_sizes) * item_size(c.dtype)
                                 : bytes * static_cast<std::uint64_t>(world_size);
    default:
      return bytes;
  }
}

Operation as_operation(const Collective& c) {
  return {c.count,  c.kind, c.dtype, c.reduction, c.algorithm, static_cast<std::uint32_t>(c.root),
          kPrivate, 0,      0,       c.factor};
}

std::string amount(std::uint64_t count) { return count == kUnequal ? "unequal parts" : number(count); }

std::string describe(const Operation& o) {
  std::string text = name(o.kind);
  if (o.kind == Kind::kBarrier) return text + "()";
  text.append("(").append(amount(o.count)).append(" x ").append(name(o.dtype));
  if (o.kind == Kind::kAllToAll && o.count != kUnequal) text.append(" to each rank");
  if (has_root(o.kind)) text.append(", root ").append(number(o.root));
  if (reduces(o.kind)) text.append(", ").append(name(o.reduction));
  if (o.algorithm != Algorithm::kDirect) text.append(", ").append(name(o.algorithm));
  return text + ")";
}

namespace {

bool same(const Operation& a, const Operation& b) {
  const bool counted =
      a.count == b.count || (a.kind == Kind::kAllToAll && (a.count == kUnequal || b.count == kUnequal));
  return counted && a.kind == b.kind && a.dtype == b.dtype && a.reduction == b.reduction &&
         a.algorithm == b.algorithm && a.root == b.root;
}

}  // namespace

void check_same_operation(ControlBlock& control, std::uint32_t sequence, int rank) {
  const int world_size = static_cast<int>(control.world_size);
  const auto operation = [&](int r) -> const Operation& { return control.rank(r).operations[sequence & 1]; };
  const auto disagree = [&](const std::string& how) {
    throw CollectiveMismatchError("ranks disagree in operation #" + number(sequence) + ": rank " + how);
  };
  bool unequal = false;
  for (int r = 0; r < world_size; ++r) {
    unequal = unequal || (operation(r).kind == Kind::kAllToAll && operation(r).count == kUnequal);
    if (same(operation(rank), operation(r))) continue;
    disagree(std::to_string(rank) + " called " + describe(operation(rank)) + ", rank " + std::to_string(r) +
             " called " + describe(operation(r)));
  }
  if (!unequal) return;
  for (int from = 0; from < world_size; ++from)
    for (int to = 0; to < world_size; ++to) {
      const std::uint64_t sent = control.input_size(from, sequence, to);
      const std::uint64_t expected = control.output_size(to, sequence, from);
      if (sent == expected) continue;
      const std::string dtype = std::string(" x ") + name(operation(rank).dtype);
      disagree(std::to_string(from) + " sends " + number(sent) + dtype + " to rank " + std::to_string(to) +
               " in all_to_all, which expects " + number(expected) + dtype + " from it");
    }
}

}  // namespace pyparallel::shm
