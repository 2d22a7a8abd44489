// Device and pinned memory: heap blocks that the emulation keeps a list of.
#pragma once
#include <cstddef>
#include <map>
#include <vector>

namespace pyparallel::emulation {

// What fresh memory is filled with: a read of it yields NaN.
inline constexpr int kFresh = 0xff;

// Not synchronised: the caller holds the runtime's lock.
class Memory {
 public:
  // Aligned to 512 bytes, as devices do; null beyond the configured size of the device. The content is undefined.
  void* allocate(std::size_t bytes);
  // Puts memory of somebody else's on the list. It is filled by the caller.
  void adopt(void* memory, std::size_t bytes);
  // Takes the block off the list; false if it is not on it. The caller hands it to std::free or to retire().
  bool forget(const void* memory);

  // Memory that work which is still queued may touch by mistake: freed when the device is idle, so that the mistake
  // damages nothing but values.
  void retire(void* memory) { retired_.push_back(memory); }
  void free_retired();

  // Whether the address lies in device memory.
  bool contains(const void* address) const;
  // Exact addresses of blocks only.
  bool owns(const void* memory) const { return blocks_.count(memory) != 0; }
  std::size_t bytes_in_use() const { return bytes_in_use_; }
  std::size_t bytes_of(const void* memory) const { return blocks_.at(memory); }

  // AddressSanitizer: between these two any access is reported.
  void close_to_host() const;
  void open_to_host() const;

 private:
  std::map<const void*, std::size_t> blocks_;
  std::size_t bytes_in_use_ = 0;
  std::vector<void*> retired_;
};

}  // namespace pyparallel::emulation
