// memfd segments: creation with a check of the memory at hand, opening through /proc, one mapping per process.
#include "core/shared_segment.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>
#include <map>
#include <mutex>
#include <string>

#include "core/error.hpp"
#include "core/per_process.hpp"

namespace pyparallel {
namespace {

// The segments of this process, by what they are and by where they lie.
struct Registry {
  std::mutex mutex;  // guards the maps; no last reference to a segment ends under it, because the destructor takes it
  std::map<std::pair<dev_t, ino_t>, std::weak_ptr<SharedSegment>> by_file;
  std::map<const char*, std::weak_ptr<SharedSegment>> by_address;
};

constinit PerProcess<Registry> registries;

std::uint64_t read_number(const std::string& path, std::uint64_t missing) {
  std::ifstream file(path);
  std::uint64_t number;
  return file >> number ? number : missing;  // cgroup files say "max" where there is no limit
}

std::uint64_t mem_available() {
  std::ifstream file("/proc/meminfo");
  std::string key;
  std::uint64_t kibibytes;
  while (file >> key >> kibibytes) {
    if (key == "MemAvailable:") return kibibytes * 1024;
    file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return std::numeric_limits<std::uint64_t>::max();
}

[[noreturn]] void out_of_memory(std::uint64_t num_bytes) {
  const std::uint64_t available = available_memory();
  throw OutOfMemoryError(num_bytes, available,
                         "out of shared memory: " + std::to_string(num_bytes) + " bytes needed, " +
                             std::to_string(available) + " bytes available");
}

std::string system_error(const std::string& what) { return what + ": " + std::strerror(errno); }

int new_memory() {
  const int fd = memfd_create("pyparallel", MFD_CLOEXEC);
  if (fd < 0) throw std::runtime_error(system_error("cannot create shared memory (memfd_create)"));
  return fd;
}

// Closes `fd` if that fails. A segment without all its pages is mapped as it is.
char* map_whole(int fd, const struct stat& status) {
  const auto num_bytes = static_cast<std::uint64_t>(status.st_size);
  const bool is_sparse = static_cast<std::uint64_t>(status.st_blocks) * 512 < num_bytes;
  const int flags = MAP_SHARED | (is_sparse ? MAP_NORESERVE : MAP_POPULATE);
  void* const address = mmap(nullptr, num_bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
  if (address != MAP_FAILED) return static_cast<char*>(address);
  const int error = errno;
  close(fd);
  if (error == ENOMEM) out_of_memory(num_bytes);
  throw std::runtime_error("cannot map " + std::to_string(num_bytes) +
                           " bytes of shared memory: " + std::strerror(error));
}

}  // namespace

std::uint64_t available_memory() {
  constexpr std::uint64_t kUnlimited = std::numeric_limits<std::uint64_t>::max();
  const std::uint64_t limit = read_number("/sys/fs/cgroup/memory.max", kUnlimited);
  const std::uint64_t used = read_number("/sys/fs/cgroup/memory.current", 0);
  const std::uint64_t within_group = limit == kUnlimited ? kUnlimited : limit - std::min(limit, used);
  return std::min(mem_available(), within_group);
}

SharedSegment::~SharedSegment() {
  Registry& registry = registries.get();
  {
    std::lock_guard<std::mutex> lock(registry.mutex);
    registry.by_address.erase(data_);  // before anybody else can get the address
  }
  munmap(data_, num_bytes_);
  close(fd_);
}

std::shared_ptr<SharedSegment> SharedSegment::adopt(int fd) {
  struct stat status;
  if (fstat(fd, &status) != 0) {
    close(fd);
    throw std::runtime_error(system_error("cannot read the size of a shared segment"));
  }
  Registry& registry = registries.get();
  std::lock_guard<std::mutex> lock(registry.mutex);
  std::weak_ptr<SharedSegment>& known = registry.by_file[{status.st_dev, status.st_ino}];
  if (std::shared_ptr<SharedSegment> segment = known.lock()) {
    close(fd);
    return segment;
  }
  char* const data = map_whole(fd, status);
  std::shared_ptr<SharedSegment> segment(new SharedSegment(fd, static_cast<std::uint64_t>(status.st_size), data));
  known = segment;
  registry.by_address[data] = segment;
  std::erase_if(registry.by_file, [](const auto& entry) { return entry.second.expired(); });
  return segment;
}

std::shared_ptr<SharedSegment> SharedSegment::create(std::uint64_t num_bytes) {
  if (num_bytes == 0) throw InvalidArgument("a shared segment needs at least one byte");
  if (num_bytes > available_memory()) out_of_memory(num_bytes);
  const int fd = new_memory();
  // Pages are taken now, so that a lack of memory is an error here and not a SIGBUS at the first touch.
  if (ftruncate(fd, static_cast<off_t>(num_bytes)) != 0 || posix_fallocate(fd, 0, static_cast<off_t>(num_bytes)) != 0) {
    close(fd);
    out_of_memory(num_bytes);
  }
  return adopt(fd);
}

std::shared_ptr<SharedSegment> SharedSegment::reserve(std::uint64_t most, std::uint64_t least) {
  for (std::uint64_t size = most;; size /= 2) {
    const int fd = new_memory();
    if (ftruncate(fd, static_cast<off_t>(size)) == 0) {
      try {
        return adopt(fd);
      } catch (const OutOfMemoryError&) {  // has closed it
      }
    } else {
      close(fd);
    }
    if (size / 2 < least) out_of_memory(size);
  }
}

std::shared_ptr<SharedSegment> SharedSegment::containing(const void* address) {
  Registry& registry = registries.get();
  const char* const place = static_cast<const char*>(address);
  std::shared_ptr<SharedSegment> segment;  // outlives the lock
  std::lock_guard<std::mutex> lock(registry.mutex);
  const auto next = registry.by_address.upper_bound(place);
  if (next == registry.by_address.begin()) return nullptr;
  segment = std::prev(next)->second.lock();
  const bool inside = segment && static_cast<std::uint64_t>(place - segment->data_) < segment->num_bytes_;
  return inside ? segment : nullptr;
}

bool SharedSegment::populate(std::uint64_t offset, std::uint64_t num_bytes) {
  if (num_bytes > available_memory()) return false;
  if (posix_fallocate(fd_, static_cast<off_t>(offset), static_cast<off_t>(num_bytes)) != 0) return false;
#ifdef MADV_POPULATE_WRITE
  madvise(data_ + offset, num_bytes, MADV_POPULATE_WRITE);  // where the kernel is older, at the first touch
#endif
  return true;
}

void SharedSegment::punch(std::uint64_t offset, std::uint64_t num_bytes) noexcept {
  fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset), static_cast<off_t>(num_bytes));
}

std::shared_ptr<SharedSegment> SharedSegment::open(int pid, int fd) {
  const std::string path = "/proc/" + std::to_string(pid) + "/fd/" + std::to_string(fd);
  const int opened = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (opened < 0)
    throw PeerMemoryError(system_error("cannot open the shared memory of process " + std::to_string(pid) + " at " +
                                       path + " (another user, another container, or it has ended)"));
  return adopt(opened);
}

}  // namespace pyparallel
