// Ranks in one process over the stand-in NCCL and the emulated CUDA runtime, spread over the emulated devices.
//
// One host thread issues for all of them, which works because no call waits for another rank. Inputs are uploaded and
// results copied away on each rank's own stream and overwritten right behind, so that an event that is missing shows as
// wrong numbers, and to ThreadSanitizer as a race.
#pragma once
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "comm/nccl/communicator.hpp"
#include "comm/nccl/stand_in/nccl.hpp"
#include "comm/nccl/stand_in/world.hpp"
#include "core/device_guard.hpp"
#include "emulation/device.hpp"

namespace pyparallel::nccl {

// In a process that never had a second thread, libstdc++ counts references without atomics, which ThreadSanitizer takes
// for a race between streams.
inline const bool kSeveralThreads = (std::thread([] {}).join(), true);

inline const Library& stand_in_library() {
  static const Library library = stand_in::library();
  return library;
}

inline Options without_thread() { return {60.0, 0, {}}; }

class Ranks {
 public:
  explicit Ranks(int world_size, const Options& options = without_thread(),
                 const Library& library = stand_in_library()) {
    const UniqueId id = Communicator::create_unique_id(library);
    for (int r = 0; r < world_size; ++r) {
      const int device = r % emulation::kDeviceCount;
      const DeviceGuard guard(device);
      streams_.emplace_back();
      communicators_.push_back(std::make_unique<Communicator>(library, id, r, world_size, device, options));
    }
    for (auto& communicator : communicators_) communicator->join();
  }

  int size() const { return static_cast<int>(communicators_.size()); }
  Communicator& operator[](int rank) { return *communicators_[static_cast<std::size_t>(rank)]; }
  cudaStream_t stream(int rank) const { return streams_[static_cast<std::size_t>(rank)]; }

 private:
  std::vector<TestStream> streams_;
  std::vector<std::unique_ptr<Communicator>> communicators_;
};

using Bytes = std::vector<unsigned char>;

// Device memory of one rank, `shift` bytes off its beginning, in the life of one operation.
class Tensor {
 public:
  explicit Tensor(std::size_t bytes, std::size_t shift = 0) : memory_(bytes, shift), copy_(bytes) {}
  unsigned char* data() const { return memory_.data(); }

  void upload(const Bytes& values, cudaStream_t stream) {
    check_cuda(cudaMemcpyAsync(data(), values.data(), values.size(), cudaMemcpyHostToDevice, stream), "upload");
  }
  // On the rank's stream: what the next kernel would read, and then write.
  void consume(cudaStream_t stream) {
    check_cuda(cudaMemcpyAsync(copy_.data(), data(), copy_.size(), cudaMemcpyDeviceToDevice, stream), "consume");
    check_cuda(cudaMemsetAsync(data(), 0x7f, copy_.size(), stream), "overwrite");
  }
  Bytes consumed() const { return copy_.download(); }
  bool front_is_untouched() const { return memory_.front_is_untouched(); }

 private:
  DeviceArray<unsigned char> memory_, copy_;
};

}  // namespace pyparallel::nccl
