// Memory shared between processes without a name: a memfd that peers open through its owner's /proc entry, so that
// nothing can stay behind in /dev/shm, whoever dies when.
#pragma once
#include <cstdint>
#include <memory>
#include <stdexcept>

namespace pyparallel {

// The memory of another process cannot be opened: it has ended, or this one may not.
struct PeerMemoryError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class SharedSegment {
 public:
  // New zeroed memory with every page in place. Throws OutOfMemoryError with the bytes asked for and available.
  static std::shared_ptr<SharedSegment> create(std::uint64_t num_bytes);
  // Addresses for memory that populate() puts there later: at most so many, halved down to `least` where addresses are
  // limited. Throws OutOfMemoryError.
  static std::shared_ptr<SharedSegment> reserve(std::uint64_t most, std::uint64_t least);
  // The segment that process `pid` holds as file descriptor `fd`. A process that maps a segment twice gets one mapping.
  // Throws PeerMemoryError.
  static std::shared_ptr<SharedSegment> open(int pid, int fd);
  // The segment of this process in which the address lies, nullptr if there is none.
  static std::shared_ptr<SharedSegment> containing(const void* address);

  ~SharedSegment();
  SharedSegment(const SharedSegment&) = delete;
  SharedSegment& operator=(const SharedSegment&) = delete;

  char* data() const { return data_; }
  std::uint64_t num_bytes() const { return num_bytes_; }
  int fd() const { return fd_; }

  // Every page of the range is in place, zeroed if it was not; false if there is not that much memory.
  bool populate(std::uint64_t offset, std::uint64_t num_bytes);
  // Gives the range's pages back. All processes read zeros there.
  void punch(std::uint64_t offset, std::uint64_t num_bytes) noexcept;

 private:
  SharedSegment(int fd, std::uint64_t num_bytes, char* data) : fd_(fd), num_bytes_(num_bytes), data_(data) {}
  static std::shared_ptr<SharedSegment> adopt(int fd);

  int fd_;
  std::uint64_t num_bytes_;
  char* data_;
};

// Bytes that could be allocated now: what the kernel reports as available, within the limit of the control group.
std::uint64_t available_memory();

}  // namespace pyparallel
