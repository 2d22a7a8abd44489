// Tables in device memory, for lists that kernel arguments cannot hold: uploaded in stream order when the list has
// changed, and never taken from a launch that may still read them.
//
//   step 1    pinned A --copy--> device A    launch reads A    event A
//   (the list changes)
//   step 2    pinned B --copy--> device B    launch reads B    event B
//   (it changes again)
//   step 3    A again if event A has passed, else C
//
// Nothing here makes the host wait. The staging memory is pinned: of pageable memory CUDA says that "the driver may
// synchronize with the stream" (CUDA Runtime API, "API synchronization behavior"). While a stream is captured, a table
// is made that stays as it is for good, because nobody says when the last replay of a graph is over: it is uploaded at
// once, on a stream of its own, and is no part of the graph.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace pyparallel {

struct TableMemory;

// The tables of one list, for one thread at a time. Tables of different chunk sizes lie side by side.
class DeviceTables {
 public:
  DeviceTables() = default;
  // Lists to come get the memory once no launch uses it; it is not freed. Calls nothing of CUDA.
  ~DeviceTables();
  DeviceTables(const DeviceTables&) = delete;
  DeviceTables& operator=(const DeviceTables&) = delete;

  // The list is another one from here on.
  void change() { ++revision_; }

  struct Place {
    const void* memory;   // on the device
    std::int64_t blocks;  // what `fill` returned
  };
  // Fills `bytes` of host memory with the table and returns its number of blocks.
  using Fill = std::function<std::int64_t(void* memory)>;

  // The table of this list cut into `chunk` elements, for launches on `stream` (a cudaStream_t) of the current device
  // `device`; the stream waits for the upload and for launches on other streams. Throws CudaError.
  Place prepare(std::int64_t chunk, std::size_t bytes, int device, void* stream, const Fill& fill);

  // After the launches: they are what keeps the memory in use. Throws CudaError.
  void used(std::int64_t chunk, int device, void* stream);

 private:
  struct Entry {
    std::int64_t chunk;
    int device;
    std::uint64_t revision;
    std::int64_t blocks;
    TableMemory* in_turns;  // null: the table is kept for good
    const void* memory;
  };

  Entry& entry_of(std::int64_t chunk, int device);
  void keep_for_good(Entry& entry, std::size_t bytes, const Fill& fill);
  void upload(Entry& entry, std::size_t bytes, void* stream, const Fill& fill);

  std::vector<Entry> entries_;
  std::uint64_t revision_ = 1;
};

}  // namespace pyparallel
