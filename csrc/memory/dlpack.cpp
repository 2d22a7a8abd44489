// One allocation holds the tensor with its shape and whom to tell at its end.
#include "memory/dlpack.hpp"

#include <utility>

namespace pyparallel::memory::dlpack {
namespace {

constexpr DataType kByte = {1, 8, 1};

template <class Kind>
struct Owned {
  Kind managed{};
  std::int64_t shape = 0, stride = 1;
  std::function<void()> dropped;
};

template <class Kind>
Kind* make_kind(void* data, std::uint64_t num_bytes, Device device, std::function<void()> dropped) {
  auto* const owned = new Owned<Kind>;
  owned->shape = static_cast<std::int64_t>(num_bytes);
  owned->dropped = std::move(dropped);
  owned->managed.tensor = {data, device, 1, kByte, &owned->shape, &owned->stride, 0};
  owned->managed.manager = owned;
  owned->managed.deleter = [](Kind* self) {
    auto* const whole = static_cast<Owned<Kind>*>(self->manager);
    whole->dropped();
    delete whole;
  };
  return &owned->managed;
}

}  // namespace

Managed* make(void* data, std::uint64_t num_bytes, Device device, std::function<void()> dropped) {
  return make_kind<Managed>(data, num_bytes, device, std::move(dropped));
}

ManagedVersioned* make_versioned(void* data, std::uint64_t num_bytes, Device device, std::function<void()> dropped) {
  auto* const managed = make_kind<ManagedVersioned>(data, num_bytes, device, std::move(dropped));
  managed->major = 1;
  return managed;
}

}  // namespace pyparallel::memory::dlpack
