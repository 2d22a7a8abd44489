// process_vm_readv, and what it takes to be allowed to.
#include "comm/shm/peer_reader.hpp"

#include <sys/prctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <string>

#include "core/shared_segment.hpp"

namespace pyparallel::shm {
namespace {

const std::uint64_t probed = kMagic;  // its address is told to the peers

}  // namespace

// Where Yama lets only ancestors read (ptrace_scope 1), a process may name one more whose descendants may, too: the
// launcher, which is the ranks' common parent and may read them anyway.
void PeerReader::admit_peers(RankBlock& own) {
  int scope = 0;
  std::ifstream("/proc/sys/kernel/yama/ptrace_scope") >> scope;
  if (scope == 1 && getppid() > 1) prctl(PR_SET_PTRACER, getppid(), 0, 0, 0);
  own.probe.store(reinterpret_cast<std::uintptr_t>(&probed), std::memory_order_relaxed);
}

void PeerReader::probe(ControlBlock& control) {
  for (int r = 0; r < static_cast<int>(processes_.size()); ++r) {
    std::uint64_t seen = 0;
    readable_[r] = true;
    try {
      read(r, reinterpret_cast<char*>(&seen), control.rank(r).probe.load(std::memory_order_relaxed), sizeof seen);
    } catch (const PeerMemoryError&) {  // the next operation says who is lost
      refusals_[r] = ESRCH;
    }
    readable_[r] = seen == kMagic;
  }
}

bool PeerReader::read(int rank, char* target, std::uint64_t address, std::uint64_t num_bytes) {
  const auto r = static_cast<std::size_t>(rank);
  while (num_bytes > 0) {
    iovec local{target, num_bytes}, remote{reinterpret_cast<void*>(address), num_bytes};
    const ssize_t read = process_vm_readv(processes_[r], &local, 1, &remote, 1, 0);
    if (read <= 0) {
      if (read < 0 && errno == EINTR) continue;
      if (read < 0 && errno == ESRCH) throw PeerMemoryError("process " + std::to_string(processes_[r]) + " has ended");
      readable_[r] = false;
      refusals_[r] = read < 0 ? errno : EIO;
      return false;
    }
    target += read, address += static_cast<std::uint64_t>(read), num_bytes -= static_cast<std::uint64_t>(read);
  }
  return true;
}

}  // namespace pyparallel::shm
