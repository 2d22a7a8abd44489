// Shared memory of one block: every array is a heap block of its own, so that AddressSanitizer sees its ends.
#pragma once
#include <cstddef>
#include <vector>

namespace pyparallel::emulation {

inline constexpr std::size_t kSharedBytes = 48 << 10;        // of a block, unless its kernel asked for more
inline constexpr std::size_t kSharedOptInBytes = 227 << 10;  // what it may ask for

class SharedMemory {
 public:
  explicit SharedMemory(std::size_t dynamic_bytes);
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  void* dynamic_array() const { return dynamic_; }

  // The array of this key; made at the first call.
  void* static_array(const void* key, std::size_t bytes, std::size_t alignment);

 private:
  struct Array {
    const void* key;
    void* memory;
  };

  void* dynamic_ = nullptr;
  std::vector<Array> static_;
  std::size_t static_bytes_ = 0;
};

}  // namespace pyparallel::emulation
