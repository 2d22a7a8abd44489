// What all upstreams have in common whose memory a CUDA device works on: its streams and events.
//
// A stream is known by cudaStreamGetId. The legacy default stream is one stream; the per-thread default stream is one
// of each thread, and only that thread can put an event into it.
#pragma once
#include <cuda_runtime_api.h>

#include <vector>

#include "memory/upstream.hpp"

namespace pyparallel::memory {

class CudaStreams : public Upstream {
 public:
  explicit CudaStreams(int device) : device_(device) {}
  ~CudaStreams() override;

  StreamId identity(Stream stream) override;
  bool capturing(Stream stream) override;
  Event record(Stream stream) override;
  bool passed(Event event) override;
  void wait(Stream stream, Event event) override;
  void destroy(Event event) noexcept override;
  bool await(Event event) override;
  bool synchronize() override;

  // True once the process exits. Then the driver may be gone, and nothing is freed.
  static bool exiting();

 protected:
  // Says whether an allocating call gave memory; throws CudaError unless it did, or there was none.
  bool gave_memory(cudaError_t result, const char* operation) const;
  // To be called when the driver is at work: exiting() is true before it goes.
  static void watch_exit();
  // Throws CudaError for memory that is not aligned as the pool needs it, which no driver gives.
  char* aligned(void* data) const;

  const int device_;

 private:
  std::vector<cudaEvent_t> idle_events_;
};

}  // namespace pyparallel::memory
