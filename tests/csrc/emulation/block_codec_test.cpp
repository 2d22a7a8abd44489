// The block codec under emulation: the same bytes as on the CPU, for all dtypes, sizes and alignments, in every order.
#include "kernels/block_codec.hpp"

#include <limits>

#include "core/error.hpp"
#include "tensors.hpp"

using namespace pyparallel;

namespace {

constexpr DType kDTypes[] = {DType::kFloat32, DType::kBFloat16, DType::kFloat16};
constexpr std::size_t kSizes[] = {0, 1, 15, 255, 256, 257, 511, 512, 513, 5003};

// Codes of 1 byte as twins too.
constexpr DType kCodes = DType::kUInt8;

std::size_t blocks_of(std::size_t count) {
  return static_cast<std::size_t>(codec_blocks(static_cast<std::int64_t>(count)));
}

struct Encoding {
  TwinTensor values, error, codes, scales;

  Encoding(DType dtype, std::size_t count, bool aligned, std::mt19937_64& random)
      : values(dtype, count, aligned ? 0 : random() % 9),
        error(DType::kFloat32, count, aligned ? 0 : random() % 9),
        codes(kCodes, count, aligned ? 0 : random() % 9),
        scales(DType::kFloat32, blocks_of(count), random() % 5) {
    values.fill_normal(random);
    error.fill_normal(random, 0.01);
  }

  void set(std::size_t i, double value) {
    write_element(values.host.data(), values.dtype, i, value);
    values.device.upload(values.host);
  }

  void run(bool with_error, cudaStream_t stream = nullptr) {
    EncodeCall call{values.host.data(),
                    values.dtype,
                    with_error ? reinterpret_cast<float*>(error.host.data()) : nullptr,
                    reinterpret_cast<std::int8_t*>(codes.host.data()),
                    reinterpret_cast<float*>(scales.host.data()),
                    values.numel()};
    encode_blocks_cpu(call, 1);
    call.values = values.device.data();
    call.error = with_error ? reinterpret_cast<float*>(error.device.data()) : nullptr;
    call.codes = reinterpret_cast<std::int8_t*>(codes.device.data());
    call.scales = reinterpret_cast<float*>(scales.device.data());
    encode_blocks_cuda(call, 0, stream);
  }

  void check() const {
    codes.check_twins("codes");
    scales.check_twins("scales");
    error.check_twins("error");
    values.check_twins("values");
  }
};

struct Decoding {
  std::int64_t count, stride, scales_stride;
  int sources;
  TwinTensor codes, scales, output;

  Decoding(DType dtype, std::size_t count_, int sources_, bool aligned, std::mt19937_64& random)
      : count(static_cast<std::int64_t>(count_)),
        stride(aligned ? (count + 15) / 16 * 16 : count + 3),
        scales_stride(static_cast<std::int64_t>(blocks_of(count_)) + 2),
        sources(sources_),
        // The last source ends where its memory ends.
        codes(kCodes, static_cast<std::size_t>((sources - 1) * stride + count), aligned ? 0 : random() % 9),
        scales(DType::kFloat32, static_cast<std::size_t>((sources - 1) * scales_stride) + blocks_of(count_), 0),
        output(dtype, count_, aligned ? 0 : random() % 9) {
    codes.fill_bits(random);
    scales.fill_normal(random);
    output.fill_normal(random);
  }

  void run(float factor, bool add, cudaStream_t stream = nullptr) {
    DecodeCall call{reinterpret_cast<const std::int8_t*>(codes.host.data()),
                    reinterpret_cast<const float*>(scales.host.data()),
                    stride,
                    scales_stride * static_cast<std::int64_t>(sizeof(float)),
                    sources,
                    output.host.data(),
                    output.dtype,
                    count,
                    factor,
                    add};
    decode_blocks_cpu(call, 1);
    call.codes = reinterpret_cast<const std::int8_t*>(codes.device.data());
    call.scales = reinterpret_cast<const float*>(scales.device.data());
    call.output = output.device.data();
    decode_blocks_cuda(call, 0, stream);
  }
};

void all_dtypes(std::mt19937_64& random) {
  for (DType dtype : kDTypes)
    for (std::size_t count : kSizes)
      for (bool aligned : {false, true}) {
        Encoding encoding(dtype, count, aligned, random);
        encoding.run(random() % 4 != 0);
        synchronize();
        encoding.check();
        Decoding decoding(dtype, count, 1 + static_cast<int>(random() % 4), aligned, random);
        decoding.run(random() % 2 == 0 ? 1.0f : 0.3f, random() % 2 == 0);
        synchronize();
        decoding.output.check_twins("output");
      }
}

// More blocks than the grid has groups at once.
void large_arrays(std::mt19937_64& random) {
  const std::size_t count = emulation::kTsan ? 60'001 : 1'500'001;
  Encoding encoding(DType::kBFloat16, count, true, random);
  encoding.run(true);
  Decoding decoding(DType::kFloat32, count, 2, true, random);
  decoding.run(0.5f, false);
  synchronize();
  encoding.check();
  decoding.output.check_twins("output");
}

void what_is_not_finite_stays_in_its_block(std::mt19937_64& random) {
  for (double bad : {double{INFINITY}, double{-INFINITY}, double{NAN}, 0.0})
    for (std::size_t place : {0, 255, 256, 599}) {
      Encoding encoding(DType::kFloat32, 600, place % 2 == 0, random);
      if (bad == 0.0)
        for (std::size_t i = 0; i < 600; ++i) encoding.set(i, 1e-42);  // a scale below the smallest normal number
      encoding.set(place, bad);
      encoding.run(bad != 0.0);
      synchronize();
      encoding.check();
    }
}

// Each stream encodes twice, with the error of the first time, ordered by the stream alone.
void streams_are_independent(std::mt19937_64& random) {
  std::vector<TestStream> streams(3);
  std::vector<Encoding> encodings;
  for (std::size_t s = 0; s < streams.size(); ++s) encodings.emplace_back(DType::kFloat32, 3001, true, random);
  for (int step = 0; step < 2; ++step)
    for (std::size_t s = 0; s < streams.size(); ++s) encodings[s].run(true, streams[s]);
  synchronize();
  for (const Encoding& encoding : encodings) encoding.check();
}

void may_be_captured(std::mt19937_64& random) {
  const TestStream stream;
  Encoding encoding(DType::kFloat16, 5003, true, random);
  Decoding decoding(DType::kFloat16, 5003, 3, true, random);
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
  encoding.run(true, stream);
  decoding.run(0.3f, true, stream);
  check_cuda(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  check_cuda(cudaGraphInstantiate(&exec, graph, 0), "cudaGraphInstantiate");
  check_cuda(cudaGraphLaunch(exec, stream), "cudaGraphLaunch");
  synchronize();
  encoding.check();
  decoding.output.check_twins("output");
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
}

void refuses_what_it_cannot_code() {
  float values[4] = {}, scale = 0.0f;
  std::int8_t codes[4];
  CHECK_THROWS(encode_blocks_cuda({values, DType::kInt32, nullptr, codes, &scale, 4}, 0, nullptr), InvalidArgument);
  CHECK_THROWS(encode_blocks_cuda({values, DType::kFloat32, nullptr, nullptr, &scale, 4}, 0, nullptr), InvalidArgument);
  CHECK_THROWS(decode_blocks_cuda({codes, &scale, 4, 4, 0, values, DType::kFloat32, 4}, 0, nullptr), InvalidArgument);
  CHECK_THROWS(
      encode_blocks_cuda({values, DType::kFloat32, nullptr, codes, &scale, 4}, emulation::kDeviceCount, nullptr),
      CudaError);
  const std::int64_t before = emulation::launch_count();
  encode_blocks_cuda({nullptr, DType::kFloat32, nullptr, nullptr, nullptr, 0}, 0, nullptr);
  CHECK_EQUAL(emulation::launch_count(), before);
}

}  // namespace

int main() {
  std::mt19937_64 random = fresh_random();
  in_every_order(random, [&] {
    all_dtypes(random);
    what_is_not_finite_stays_in_its_block(random);
    streams_are_independent(random);
  });
  large_arrays(random);
  may_be_captured(random);
  refuses_what_it_cannot_code();
}
