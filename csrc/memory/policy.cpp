// The policies by name, and our own pool as one of them, over addresses that stand for memory.
#include "memory/policy.hpp"

#include "core/error.hpp"
#include "memory/pool.hpp"
#include "memory/rmm_arena_policy.hpp"
#include "memory/rmm_policy.hpp"
#include "memory/torch_policy.hpp"

namespace pyparallel::memory {
namespace {

constexpr std::uint64_t kPage = 2 << 20;

// Addresses without memory behind them. `pages`: they grow at the end, as pages mapped into a reserved range do.
class AddressUpstream : public Upstream {
 public:
  AddressUpstream(bool pages, std::uint64_t* growths) : pages_(pages), growths_(*growths) {}
  const char* name() const override { return "address"; }
  std::uint64_t granularity() const override { return kPage; }
  char* allocate(std::uint64_t num_bytes) override {
    char* const data = reinterpret_cast<char*>(next_);
    next_ += num_bytes + (pages_ ? 0 : kPage);
    ++growths_;
    return data;
  }
  bool extend(char*, std::uint64_t num_bytes) override {
    if (!pages_) return false;
    next_ += num_bytes;
    ++growths_;
    return true;
  }
  void release(char*, std::uint64_t) noexcept override {}
  bool release_pages(char*, std::uint64_t) noexcept override { return pages_; }
  bool restore_pages(char*, std::uint64_t) override {
    ++growths_;
    return true;
  }
  StreamId identity(Stream stream) override { return stream; }
  Event record(Stream) override { return 0; }
  bool passed(Event) override { return true; }
  void wait(Stream, Event) override {}
  void destroy(Event) noexcept override {}
  bool await(Event) override { return true; }
  bool synchronize() override { return true; }

 private:
  const bool pages_;
  std::uint64_t& growths_;
  std::uintptr_t next_ = std::uintptr_t{1} << 40;
};

class PoolPolicy : public Policy {
 public:
  PoolPolicy(bool pages, std::uint64_t device) : pool_(std::make_unique<AddressUpstream>(pages, &growths_), device) {}
  bool allocate(std::uint64_t num_bytes, std::uint64_t stream, Handle* block) override {
    try {
      *block = reinterpret_cast<Handle>(pool_.allocate(num_bytes, stream));
    } catch (const OutOfMemoryError&) {
      return false;
    }
    return true;
  }
  void free(Handle block) override { pool_.free(reinterpret_cast<void*>(block)); }
  std::uint64_t reserved() const override { return pool_.reserved(); }
  std::uint64_t growths() const override { return growths_; }

 private:
  std::uint64_t growths_ = 0;
  Pool pool_;
};

}  // namespace

const std::vector<std::string>& policy_names() {
  static const std::vector<std::string> names = {
      "pyparallel", "pyparallel-segments", "torch", "torch-expandable", "rmm", "rmm-arena"};
  return names;
}

std::unique_ptr<Policy> make_policy(const std::string& name, std::uint64_t device) {
  if (name == "pyparallel") return std::make_unique<PoolPolicy>(true, device);
  if (name == "pyparallel-segments") return std::make_unique<PoolPolicy>(false, device);
  if (name == "torch") return std::make_unique<TorchPolicy>(false, device);
  if (name == "torch-expandable") return std::make_unique<TorchPolicy>(true, device);
  if (name == "rmm") return std::make_unique<RmmPolicy>(device);
  if (name == "rmm-arena") return std::make_unique<RmmArenaPolicy>(device);
  std::string known;
  for (const std::string& one : policy_names()) known += (known.empty() ? "" : ", ") + one;
  throw InvalidArgument("policy '" + name + "' is none of " + known);
}

}  // namespace pyparallel::memory
