// Pack and unpack under emulation: the same bytes as on the CPU, for all dtypes, sizes and alignments, in every order.
#include "kernels/pack.hpp"

#include "core/error.hpp"
#include "tensors.hpp"

using namespace pyparallel;

namespace {

enum class Alignment { kWide, kAny };  // every tensor and slice on 16 bytes, or anywhere with gaps between the slices

struct Layout {
  std::vector<std::size_t> sizes, offsets;
  std::size_t total = 0;

  Layout(std::vector<std::size_t> sizes_, Alignment alignment, std::mt19937_64& random) : sizes(std::move(sizes_)) {
    for (std::size_t size : sizes) {
      total = alignment == Alignment::kWide ? (total + 15) / 16 * 16 : total + random() % 4;
      offsets.push_back(total);
      total += size;
    }
  }
};

// Tensors and the flat buffer that they are packed into.
struct Packing {
  DType tensor_dtype, flat_dtype;
  std::vector<TwinTensor> tensors;
  TwinTensor flat;
  std::vector<PackItem> host_items, device_items;

  Packing(DType tensor_dtype_, DType flat_dtype_, const Layout& layout, Alignment alignment, std::mt19937_64& random)
      : tensor_dtype(tensor_dtype_),
        flat_dtype(flat_dtype_),
        flat(flat_dtype_, layout.total, shift(alignment, random)) {
    for (std::size_t t = 0; t < layout.sizes.size(); ++t) {
      TwinTensor& tensor = tensors.emplace_back(tensor_dtype, layout.sizes[t], shift(alignment, random));
      const auto offset = static_cast<std::int64_t>(layout.offsets[t]);
      host_items.push_back({tensor.host.data(), offset, tensor.numel()});
      device_items.push_back({tensor.device.data(), offset, tensor.numel()});
    }
  }

  static std::size_t shift(Alignment alignment, std::mt19937_64& random) {
    return alignment == Alignment::kWide ? 0 : random() % 9;
  }

  std::int64_t count() const { return static_cast<std::int64_t>(tensors.size()); }

  void pack(double scale, cudaStream_t stream = nullptr) {
    pack_cpu(host_items.data(), count(), tensor_dtype, flat.host.data(), flat_dtype, scale, 1);
    pack_cuda(device_items.data(), count(), tensor_dtype, flat.device.data(), flat_dtype, scale, 0, stream);
  }

  void unpack(double scale, cudaStream_t stream = nullptr) {
    unpack_cpu(host_items.data(), count(), tensor_dtype, flat.host.data(), flat_dtype, scale, 1);
    unpack_cuda(device_items.data(), count(), tensor_dtype, flat.device.data(), flat_dtype, scale, 0, stream);
  }

  void fill_tensors(std::mt19937_64& random) {
    for (TwinTensor& tensor : tensors) tensor.fill_normal(random);
  }

  void check() const {
    flat.check_twins("flat buffer");
    for (const TwinTensor& tensor : tensors) tensor.check_twins("tensor");
  }
};

void there_and_back(DType tensor_dtype, DType flat_dtype, const std::vector<std::size_t>& sizes, Alignment alignment,
                    double scale, std::mt19937_64& random) {
  const Layout layout(sizes, alignment, random);
  Packing there(tensor_dtype, flat_dtype, layout, alignment, random);
  there.fill_tensors(random);
  there.pack(scale);
  synchronize();
  there.check();
  Packing back(tensor_dtype, flat_dtype, layout, alignment, random);
  back.flat.fill_normal(random);
  back.unpack(scale);
  synchronize();
  back.check();
}

void all_dtypes(std::mt19937_64& random) {
  for (DType tensor_dtype : kFloatingTypes)
    for (DType flat_dtype : kFloatingTypes)
      for (Alignment alignment : {Alignment::kWide, Alignment::kAny})
        there_and_back(tensor_dtype, flat_dtype, kEdgeSizes, alignment, random() % 2 == 0 ? 1.0 : 0.37, random);
}

void long_lists(std::mt19937_64& random) {
  without_guard();
  // The last tensors are empty: the table that holds them must not be launched empty, nor the one before be lost.
  std::vector<std::size_t> sizes = many_sizes(3600, random);
  std::fill(sizes.end() - 1000, sizes.end(), std::size_t{0});
  there_and_back(DType::kBFloat16, DType::kFloat32, sizes, Alignment::kAny, 1.0, random);
  const std::int64_t before = emulation::launch_count();
  there_and_back(DType::kFloat32, DType::kFloat32, std::vector<std::size_t>(5, 0), Alignment::kWide, 1.0, random);
  CHECK_EQUAL(emulation::launch_count(), before);
  emulation::configure({});
}

// A tensor of many chunks, so that blocks reach the loop that keeps several accesses in flight.
void large_tensors(std::mt19937_64& random) {
  const std::size_t numel = emulation::kTsan ? 40'001 : 700'001;
  for (Alignment alignment : {Alignment::kWide, Alignment::kAny})
    there_and_back(DType::kFloat32, DType::kBFloat16, {numel}, alignment, 0.5, random);
}

// Each stream packs and unpacks its own; the second half of each waits for the first by the stream's order alone.
void streams_are_independent(std::mt19937_64& random) {
  std::vector<TestStream> streams(3);
  std::vector<Packing> packings;
  const Layout layout({100, 5000, 33}, Alignment::kAny, random);
  for (std::size_t s = 0; s < streams.size(); ++s) {
    packings.emplace_back(DType::kFloat32, DType::kFloat16, layout, Alignment::kAny, random);
    packings.back().fill_tensors(random);
  }
  for (std::size_t s = 0; s < streams.size(); ++s) packings[s].pack(0.37, streams[s]);
  for (std::size_t s = 0; s < streams.size(); ++s) packings[s].unpack(3.0, streams[s]);
  synchronize();
  for (const Packing& packing : packings) packing.check();
}

void may_be_captured(std::mt19937_64& random) {
  const TestStream stream;
  const Layout layout({100, 5000, 33}, Alignment::kAny, random);
  Packing packing(DType::kFloat32, DType::kFloat64, layout, Alignment::kAny, random);
  packing.fill_tensors(random);
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
  packing.pack(1.0, stream);
  packing.unpack(0.5, stream);
  check_cuda(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  check_cuda(cudaGraphInstantiate(&exec, graph, 0), "cudaGraphInstantiate");
  check_cuda(cudaGraphLaunch(exec, stream), "cudaGraphLaunch");
  synchronize();
  packing.check();
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
}

void refuses_what_it_cannot_pack() {
  float value = 0;
  PackItem item{nullptr, 0, 4};
  CHECK_THROWS(pack_cuda(&item, 1, DType::kFloat32, &value, DType::kFloat32, 1.0, 0, nullptr), InvalidArgument);
  item.tensor = &value;
  CHECK_THROWS(pack_cuda(&item, 1, DType::kFloat32, &value, DType::kInt32, 1.0, 0, nullptr), InvalidArgument);
  CHECK_THROWS(unpack_cuda(&item, 1, DType::kInt64, &value, DType::kFloat32, 1.0, 0, nullptr), InvalidArgument);
  CHECK_THROWS(pack_cuda(&item, 1, DType::kFloat32, &value, DType::kFloat32, 1.0, emulation::kDeviceCount, nullptr),
               CudaError);
}

}  // namespace

int main() {
  std::mt19937_64 random = fresh_random();
  in_every_order(random, [&] {
    all_dtypes(random);
    streams_are_independent(random);
  });
  long_lists(random);
  large_tensors(random);
  may_be_captured(random);
  emulation::Config config;
  config.streams = emulation::StreamOrder::kHostThreads;
  emulation::configure(config);
  streams_are_independent(random);
  emulation::configure({});
  refuses_what_it_cannot_pack();
}
