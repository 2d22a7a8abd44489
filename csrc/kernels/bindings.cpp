// Bindings of the kernels on flat buffers: device -1 is the CPU.
#include "bindings.hpp"

#include <vector>

#include "core/error.hpp"
#include "kernels/accumulate.hpp"
#include "kernels/block_codec.hpp"
#include "kernels/pack.hpp"
#include "kernels/reduce.hpp"

namespace pyparallel {
namespace {

using Addresses = std::vector<std::uintptr_t>;
using Sizes = std::vector<std::int64_t>;

void check_lengths(const char* what, std::size_t expected, std::initializer_list<std::size_t> lengths) {
  for (std::size_t length : lengths)
    if (length != expected)
      throw InvalidArgument(std::string(what) + ": lists of different lengths: " + std::to_string(expected) + " and " +
                            std::to_string(length));
}

std::vector<PackItem> pack_items(const Addresses& tensors, const Sizes& offsets, const Sizes& numels) {
  check_lengths("pack", numels.size(), {tensors.size(), offsets.size()});
  std::vector<PackItem> items;
  items.reserve(numels.size());
  for (std::size_t i = 0; i < numels.size(); ++i) items.push_back({pointer<void>(tensors[i]), offsets[i], numels[i]});
  return items;
}

void pack(const Addresses& tensors, const Sizes& offsets, const Sizes& numels, int tensor_dtype, std::uintptr_t flat,
          int flat_dtype, double scale, bool back, int device, std::uintptr_t stream, int threads) {
  const std::vector<PackItem> items = pack_items(tensors, offsets, numels);
  const auto count = static_cast<std::int64_t>(items.size());
  const auto from = static_cast<DType>(tensor_dtype), to = static_cast<DType>(flat_dtype);
  void* const buffer = pointer<void>(flat);
  WithoutGil release;
  if (device < 0)
    return back ? unpack_cpu(items.data(), count, from, buffer, to, scale, threads)
                : pack_cpu(items.data(), count, from, buffer, to, scale, threads);
#if PYPARALLEL_CUDA
  void* const queue = pointer<void>(stream);
  back ? unpack_cuda(items.data(), count, from, buffer, to, scale, device, queue)
       : pack_cuda(items.data(), count, from, buffer, to, scale, device, queue);
#else
  (void)stream;
  no_cuda();
#endif
}

std::vector<ReduceItem> reduce_items(const Addresses& tensors, const Sizes& numels) {
  check_lengths("sum_of_squares", numels.size(), {tensors.size()});
  std::vector<ReduceItem> items;
  items.reserve(numels.size());
  for (std::size_t i = 0; i < numels.size(); ++i) items.push_back({pointer<const void>(tensors[i]), numels[i]});
  return items;
}

void sum_of_squares(const Addresses& tensors, const Sizes& numels, int dtype, std::uintptr_t result,
                    std::uintptr_t workspace, int device, std::uintptr_t stream, int threads) {
  const std::vector<ReduceItem> items = reduce_items(tensors, numels);
  const auto count = static_cast<std::int64_t>(items.size());
  WithoutGil release;
  if (device < 0)
    return sum_of_squares_cpu(items.data(), count, static_cast<DType>(dtype), pointer<double>(result), threads);
#if PYPARALLEL_CUDA
  sum_of_squares_cuda(items.data(), count, static_cast<DType>(dtype), pointer<double>(result), pointer<void>(workspace),
                      device, pointer<void>(stream));
#else
  (void)workspace, (void)stream;
  no_cuda();
#endif
}

// Bytes of device memory that sum_of_squares needs beside its result; 0 on the CPU.
std::int64_t workspace_bytes(const Addresses& tensors, const Sizes& numels, int device) {
  if (device < 0) return 0;
#if PYPARALLEL_CUDA
  const std::vector<ReduceItem> items = reduce_items(tensors, numels);
  return sum_of_squares_workspace(items.data(), static_cast<std::int64_t>(items.size()));
#else
  (void)tensors, (void)numels;
  no_cuda();
#endif
}

// `squares`: 0, or the address of two doubles that are added to; CUDA then needs `workspace`.
void accumulate(std::uintptr_t output, const Addresses& sources, const std::vector<double>& factors, std::int64_t count,
                int dtype, Accumulation op, double scale, std::uintptr_t squares, std::uintptr_t workspace, int device,
                std::uintptr_t stream, int threads) {
  if (!factors.empty()) check_lengths("accumulate", sources.size(), {factors.size()});
  std::vector<const void*> pointers;
  for (std::uintptr_t source : sources) pointers.push_back(pointer<const void>(source));
  const AccumulateCall call{pointer<void>(output),
                            pointers.data(),
                            static_cast<int>(pointers.size()),
                            count,
                            static_cast<DType>(dtype),
                            op,
                            factors.empty() ? nullptr : factors.data(),
                            scale};
  WithoutGil release;
  if (device < 0) return accumulate_cpu(call, pointer<double>(squares), threads);
#if PYPARALLEL_CUDA
  SquaresPartial* const partials = squares != 0 ? pointer<SquaresPartial>(workspace) : nullptr;
  if (squares != 0 && count > 0 && partials == nullptr)
    throw InvalidArgument("accumulate: squares on CUDA need a workspace");
  accumulate_cuda(call, partials, device, pointer<void>(stream));
  if (squares != 0)
    add_partials_cuda(partials, accumulate_partials(count), pointer<double>(squares), device, pointer<void>(stream));
#else
  (void)workspace, (void)stream;
  no_cuda();
#endif
}

// Bytes of device memory that accumulate needs for squares; 0 on the CPU.
std::int64_t accumulate_workspace(std::int64_t count, int device) {
  if (device < 0) return 0;
#if PYPARALLEL_CUDA
  return accumulate_partials(count) * static_cast<std::int64_t>(sizeof(SquaresPartial));
#else
  (void)count;
  no_cuda();
#endif
}

void register_accumulate(py::module_& module) {
  py::enum_<Accumulation>(module, "Accumulation")
      .value("sum", Accumulation::kSum)
      .value("product", Accumulation::kProduct)
      .value("max", Accumulation::kMax)
      .value("min", Accumulation::kMin);
  module.def("accumulate", &accumulate, py::arg("output"), py::arg("sources"), py::arg("factors"), py::arg("count"),
             py::arg("dtype"), py::arg("op"), py::arg("scale"), py::arg("squares"), py::arg("workspace"),
             py::arg("device"), py::arg("stream"), py::arg("threads"));
  module.def("accumulate_workspace", &accumulate_workspace, py::arg("count"), py::arg("device"));
}

void encode_blocks(std::uintptr_t values, int dtype, std::uintptr_t error, std::uintptr_t codes, std::uintptr_t scales,
                   std::int64_t count, int device, std::uintptr_t stream, int threads) {
  const EncodeCall call{pointer<const void>(values), static_cast<DType>(dtype), pointer<float>(error),
                        pointer<std::int8_t>(codes), pointer<float>(scales),    count};
  WithoutGil release;
  if (device < 0) return encode_blocks_cpu(call, threads);
#if PYPARALLEL_CUDA
  encode_blocks_cuda(call, device, pointer<void>(stream));
#else
  (void)stream;
  no_cuda();
#endif
}

void decode_blocks(std::uintptr_t codes, std::int64_t codes_stride, std::uintptr_t scales, std::int64_t scales_stride,
                   int sources, std::uintptr_t output, int dtype, std::int64_t count, float factor, bool add,
                   int device, std::uintptr_t stream, int threads) {
  const DecodeCall call{pointer<const std::int8_t>(codes),
                        pointer<const float>(scales),
                        codes_stride,
                        scales_stride,
                        sources,
                        pointer<void>(output),
                        static_cast<DType>(dtype),
                        count,
                        factor,
                        add};
  WithoutGil release;
  if (device < 0) return decode_blocks_cpu(call, threads);
#if PYPARALLEL_CUDA
  decode_blocks_cuda(call, device, pointer<void>(stream));
#else
  (void)stream;
  no_cuda();
#endif
}

void register_block_codec(py::module_& module) {
  module.def("encode_blocks", &encode_blocks, py::arg("values"), py::arg("dtype"), py::arg("error"), py::arg("codes"),
             py::arg("scales"), py::arg("count"), py::arg("device"), py::arg("stream"), py::arg("threads"));
  module.def("decode_blocks", &decode_blocks, py::arg("codes"), py::arg("codes_stride"), py::arg("scales"),
             py::arg("scales_stride"), py::arg("sources"), py::arg("output"), py::arg("dtype"), py::arg("count"),
             py::arg("factor"), py::arg("add"), py::arg("device"), py::arg("stream"), py::arg("threads"));
}

}  // namespace

void register_kernels(py::module_& module) {
  register_step(module);
  register_accumulate(module);
  register_block_codec(module);
  module.def("pack", &pack, py::arg("tensors"), py::arg("offsets"), py::arg("numels"), py::arg("tensor_dtype"),
             py::arg("flat"), py::arg("flat_dtype"), py::arg("scale"), py::arg("back"), py::arg("device"),
             py::arg("stream"), py::arg("threads"));
  module.def("sum_of_squares", &sum_of_squares, py::arg("tensors"), py::arg("numels"), py::arg("dtype"),
             py::arg("result"), py::arg("workspace"), py::arg("device"), py::arg("stream"), py::arg("threads"));
  module.def("sum_of_squares_workspace", &workspace_bytes, py::arg("tensors"), py::arg("numels"), py::arg("device"));
}

}  // namespace pyparallel
