// The C library's four functions over a pool.
#include "memory/numpy_handler.hpp"

#include <algorithm>
#include <cstring>

#include "core/error.hpp"
#include "core/per_process.hpp"
#include "memory/default_pools.hpp"

namespace pyparallel::memory {
namespace {

struct ChildsPool {
  Pool pool{device_upstream(kHost)};
};

struct Context {
  std::shared_ptr<Pool> given;
  PerProcess<ChildsPool> of_child;

  // A forked child allocates from a pool of its own.
  Pool& pool() { return given->forked() ? of_child.get().pool : *given; }
  // Whether memory is the parent's, of which the child has a copy that nobody can free.
  bool is_parents(const void* data) { return given->forked() && of_child.get().pool.num_bytes(data) == 0; }
};

Context& context_of(void* context) { return *static_cast<Context*>(context); }

void* allocate(void* context, std::size_t num_bytes) {
  try {
    return context_of(context).pool().allocate(num_bytes);
  } catch (const OutOfMemoryError&) {
    return nullptr;
  }
}

void* allocate_zeroed(void* context, std::size_t count, std::size_t item_bytes) {
  std::size_t num_bytes = 0;
  if (__builtin_mul_overflow(count, item_bytes, &num_bytes)) return nullptr;
  void* const data = allocate(context, num_bytes);
  return data == nullptr ? nullptr : std::memset(data, 0, num_bytes);
}

void free_block(void* context, void* data, std::size_t) noexcept {
  if (data != nullptr && !context_of(context).is_parents(data)) context_of(context).pool().free(data);
}

// Stays in place while the block is large enough and not more than twice as large.
void* reallocate(void* context, void* data, std::size_t num_bytes) {
  if (data == nullptr) return allocate(context, num_bytes);
  if (context_of(context).is_parents(data)) return nullptr;  // its size cannot be known here
  const std::uint64_t had = context_of(context).pool().num_bytes(data);
  if (num_bytes <= had && had / 2 <= num_bytes + kAlignment) return data;
  void* const moved = allocate(context, num_bytes);
  if (moved == nullptr) return nullptr;
  std::memcpy(moved, data, std::min<std::size_t>(had, num_bytes));
  free_block(context, data, had);
  return moved;
}

}  // namespace

std::unique_ptr<NumpyHandler> make_numpy_handler(std::shared_ptr<Pool> pool) {
  auto handler = std::make_unique<NumpyHandler>();
  std::strcpy(handler->name, "pyparallel");
  handler->version = 1;
  handler->context = new Context{std::move(pool), {}};
  handler->malloc = allocate;
  handler->calloc = allocate_zeroed;
  handler->realloc = reallocate;
  handler->free = free_block;
  return handler;
}

void destroy_numpy_handler(NumpyHandler* handler) noexcept {
  delete static_cast<Context*>(handler->context);
  delete handler;
}

}  // namespace pyparallel::memory
