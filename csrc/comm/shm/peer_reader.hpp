// Straight out of another process's memory, where the kernel lets this one read it: a message between two ordinary
// tensors is copied once.
#pragma once
#include <cstdint>
#include <vector>

#include "comm/shm/control.hpp"

namespace pyparallel::shm {

class PeerReader {
 public:
  // `processes`: the process id of every rank. Nobody's memory is read before a probe.
  explicit PeerReader(const std::vector<int>& processes)
      : processes_(processes), readable_(processes.size(), false), refusals_(processes.size(), 0) {}

  // Before this rank says that it is here: the others may read its memory from now on, as far as it can grant that.
  static void admit_peers(RankBlock& own);
  // Once all ranks are here: finds out whose memory may be read.
  void probe(ControlBlock& control);

  bool may_read(int rank) const { return readable_[static_cast<std::size_t>(rank)]; }
  // Why not: the error number of the probe.
  int refusal(int rank) const { return refusals_[static_cast<std::size_t>(rank)]; }
  // Copies [address, address + num_bytes) of that rank's memory. False if it cannot be read there, and then never
  // again. Throws PeerMemoryError if the process is gone.
  bool read(int rank, char* target, std::uint64_t address, std::uint64_t num_bytes);

 private:
  std::vector<int> processes_;
  std::vector<bool> readable_;
  std::vector<int> refusals_;
};

}  // namespace pyparallel::shm
