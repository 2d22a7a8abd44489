// Replays, and our own pool over addresses that stand for memory.
#include "memory/replay.hpp"

#include <algorithm>
#include <chrono>

#include "core/error.hpp"
#include "memory/pool.hpp"
#include "memory/torch_policy.hpp"

namespace pyparallel::memory {
namespace {

constexpr std::uint64_t kPage = 2 << 20;

// Addresses without memory behind them. `extends`: they grow at the end, as pages mapped into a reserved range do.
class AddressUpstream : public Upstream {
 public:
  explicit AddressUpstream(bool extends) : extends_(extends) {}
  const char* name() const override { return "address"; }
  std::uint64_t granularity() const override { return kPage; }
  char* allocate(std::uint64_t num_bytes) override {
    char* const data = reinterpret_cast<char*>(next_);
    next_ += num_bytes + (extends_ ? 0 : kPage);
    return data;
  }
  bool extend(char*, std::uint64_t num_bytes) override {
    if (extends_) next_ += num_bytes;
    return extends_;
  }
  void release(char*, std::uint64_t) noexcept override {}
  StreamId identity(Stream stream) override { return stream; }
  Event record(Stream) override { return 0; }
  bool passed(Event) override { return true; }
  void wait(Stream, Event) override {}
  void synchronize() override {}
  void destroy(Event) noexcept override {}

 private:
  const bool extends_;
  std::uintptr_t next_ = std::uintptr_t{1} << 40;
};

class PoolPolicy : public Policy {
 public:
  explicit PoolPolicy(bool extends) : pool_(std::make_unique<AddressUpstream>(extends)) {}
  std::uint64_t allocate(std::uint64_t num_bytes, std::uint64_t stream) override {
    return reinterpret_cast<std::uintptr_t>(pool_.allocate(num_bytes, stream));
  }
  void free(std::uint64_t address) override { pool_.free(reinterpret_cast<void*>(address)); }
  std::uint64_t reserved() const override { return pool_.reserved(); }

 private:
  Pool pool_;
};

}  // namespace

std::unique_ptr<Policy> make_policy(const std::string& name) {
  if (name == "pyparallel") return std::make_unique<PoolPolicy>(true);
  if (name == "pyparallel-segments") return std::make_unique<PoolPolicy>(false);
  if (name == "torch") return std::make_unique<TorchPolicy>(false);
  if (name == "torch-expandable") return std::make_unique<TorchPolicy>(true);
  throw InvalidArgument("policy '" + name + "' is none of pyparallel, pyparallel-segments, torch, torch-expandable");
}

ReplayResult replay(const std::vector<TraceEvent>& events, Policy& policy) {
  struct Placed {
    std::uint64_t address, num_bytes;
    bool live;
  };
  std::vector<Placed> placed;
  ReplayResult result{};
  std::uint64_t requested = 0;
  const auto start = std::chrono::steady_clock::now();
  for (const TraceEvent& event : events) {
    if (!event.is_free) {
      if (event.block != placed.size())
        throw InvalidArgument("allocation " + std::to_string(placed.size()) + " has the number " +
                              std::to_string(event.block));
      placed.push_back({policy.allocate(event.num_bytes, event.stream), event.num_bytes, true});
      requested += event.num_bytes;
      result.peak_requested = std::max(result.peak_requested, requested);
      result.peak_reserved = std::max(result.peak_reserved, policy.reserved());
      continue;
    }
    if (event.block >= placed.size() || !placed[event.block].live)
      throw InvalidArgument("block " + std::to_string(event.block) + " is freed and not live");
    Placed& block = placed[event.block];
    block.live = false;
    requested -= block.num_bytes;
    policy.free(block.address);
  }
  const auto end = std::chrono::steady_clock::now();
  const double nanoseconds = std::chrono::duration<double, std::nano>(end - start).count();
  result.nanoseconds = events.empty() ? 0.0 : nanoseconds / static_cast<double>(events.size());
  return result;
}

}  // namespace pyparallel::memory
