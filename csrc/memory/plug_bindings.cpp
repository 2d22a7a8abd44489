// Bindings of the ways into the pool for other libraries: torch's allocator, NumPy's handler, DLPack, CuPy's owner.
#include <cstring>

#include "bindings.hpp"
#include "memory/default_pools.hpp"
#include "memory/dlpack.hpp"
#include "memory/numpy_handler.hpp"
#include "memory/torch_symbols.hpp"
#include "memory/views.hpp"

namespace pyparallel {
namespace {

using memory::Pool;

std::uintptr_t address(auto* function) { return reinterpret_cast<std::uintptr_t>(function); }

// By the names of the setters that torch's allocator object has for them.
py::dict torch_hooks() {
  py::dict hooks;
  hooks["set_record_stream_fn"] = address(&pyparallel_torch_record_stream);
  hooks["set_reset_fn"] = address(&pyparallel_torch_empty_cache);
  hooks["set_memory_fraction_fn"] = address(&pyparallel_torch_set_memory_fraction);
  hooks["set_base_alloc_fn"] = address(&pyparallel_torch_base_allocation);
  hooks["set_begin_allocate_to_pool"] = address(&memory::torch_begin_allocate_to_pool);
  hooks["set_end_allocate_to_pool_fn"] = address(&memory::torch_end_allocate_to_pool);
  hooks["set_release_pool"] = address(&memory::torch_release_pool);
  return hooks;
}

// ---- NumPy: its functions are found in the table that it publishes (numpy/__multiarray_api.h)

constexpr int kSetHandler = 304;
constexpr const char* kHandlerName = "mem_handler";  // NumPy looks at it

py::object numpy_handler(std::shared_ptr<Pool> pool) {
  auto handler = memory::make_numpy_handler(std::move(pool));
  PyObject* const capsule = PyCapsule_New(handler.get(), kHandlerName, [](PyObject* dying) {
    memory::destroy_numpy_handler(static_cast<memory::NumpyHandler*>(PyCapsule_GetPointer(dying, kHandlerName)));
  });
  if (capsule == nullptr) {
    memory::destroy_numpy_handler(handler.release());
    throw py::error_already_set();
  }
  handler.release();
  return py::reinterpret_steal<py::object>(capsule);
}

// Returns the handler that was there before, of this context (contextvars).
py::object set_numpy_handler(const py::capsule& numpy_functions, const py::object& handler) {
  using SetHandler = PyObject* (*)(PyObject*);
  void* const* const functions = static_cast<void* const*>(numpy_functions.get_pointer());
  PyObject* const before = reinterpret_cast<SetHandler>(functions[kSetHandler])(handler.ptr());
  if (before == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(before);
}

// ---- DLPack

// A capsule that nobody consumed ends its tensor itself; a consumer renames the one it takes.
template <class Kind>
py::object dlpack_capsule(Kind* managed, const char* name) {
  PyObject* const capsule = PyCapsule_New(managed, name, [](PyObject* dying) {
    const char* const name = PyCapsule_GetName(dying);
    if (std::strncmp(name, "used_", 5) == 0) return;
    auto* const unused = static_cast<Kind*>(PyCapsule_GetPointer(dying, name));
    unused->deleter(unused);
  });
  if (capsule == nullptr) {
    managed->deleter(managed);
    throw py::error_already_set();
  }
  return py::reinterpret_steal<py::object>(capsule);
}

// `owning`: the block is freed when the consumer drops it. Otherwise it cannot be freed before that.
py::object dlpack(std::shared_ptr<Pool> pool, std::uintptr_t data, std::uint64_t num_bytes, int device, bool versioned,
                  bool owning) {
  void* const block = pointer<void>(data);
  const memory::dlpack::Device where = {device < 0 ? 1 : 2, device < 0 ? 0 : device};
  if (!owning) {
    memory::Views::of_process().add(block);
    std::atomic_thread_fence(std::memory_order_seq_cst);  // as in free_unviewed()
  }
  const auto dropped = [pool = std::move(pool), block, owning] {
    if (!owning)
      memory::Views::of_process().drop(block);
    else if (!pool->forked())
      pool->free(block);
  };
  if (versioned)
    return dlpack_capsule(memory::dlpack::make_versioned(block, num_bytes, where, dropped), "dltensor_versioned");
  return dlpack_capsule(memory::dlpack::make(block, num_bytes, where, dropped), "dltensor");
}

// A block that is freed with this object, whoever holds it last.
class OwnedBlock {
 public:
  OwnedBlock(std::shared_ptr<Pool> pool, std::uint64_t num_bytes, memory::Stream stream)
      : pool_(std::move(pool)), data_(pool_->allocate(num_bytes, stream)) {}
  ~OwnedBlock() {
    if (!pool_->forked()) pool_->free(data_);
  }
  OwnedBlock(const OwnedBlock&) = delete;
  OwnedBlock& operator=(const OwnedBlock&) = delete;
  std::uintptr_t data() const { return reinterpret_cast<std::uintptr_t>(data_); }

 private:
  const std::shared_ptr<Pool> pool_;
  void* const data_;
};

}  // namespace

void register_plugs(py::module_& module) {
  const auto without_gil = py::call_guard<WithoutGil>();
  module.def("default_pool", &memory::shared_default_pool, py::arg("device"), without_gil);
  module.def("set_default_pool", &memory::set_default_pool, py::arg("device"), py::arg("pool"), without_gil);
  module.def("torch_hooks", &torch_hooks);
  module.def(
      "torch_segment_functions",
      [](std::shared_ptr<Pool> pool) {
        const memory::SegmentFunctions functions = memory::segment_functions(std::move(pool));
        return std::pair(address(functions.allocate), address(functions.free));
      },
      py::arg("pool"));
  module.def("numpy_handler", &numpy_handler, py::arg("pool"));
  module.def("set_numpy_handler", &set_numpy_handler, py::arg("numpy_functions"), py::arg("handler"));
  module.def("dlpack", &dlpack, py::arg("pool"), py::arg("data"), py::arg("num_bytes"), py::arg("device"),
             py::arg("versioned"), py::arg("owning"));
  py::class_<OwnedBlock>(module, "OwnedBlock")
      .def(py::init<std::shared_ptr<Pool>, std::uint64_t, memory::Stream>(), py::arg("pool"), py::arg("num_bytes"),
           py::arg("stream"), without_gil)
      .def_property_readonly("data", &OwnedBlock::data);
}

}  // namespace pyparallel
