// The ranks of one communicator of the stand-in, and the operations that they have in flight.
#pragma once
#include <atomic>
#include <cstddef>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "comm/nccl/library.hpp"
#include "emulation/runtime.hpp"

namespace stand_in {

using pyparallel::emulation::Mark;
using pyparallel::nccl::DataType;
using pyparallel::nccl::RedOp;
using pyparallel::nccl::Stream;

[[noreturn]] void misuse(const std::string& what);

std::size_t element_size(DataType type);
double element(const void* array, std::size_t index, DataType type);
void set_element(void* array, std::size_t index, DataType type, double value);

struct Factor {
  double value = 1;
  DataType type = DataType::kFloat32;
};

// One call as NCCL got it.
struct Call {
  const char* name;
  const void* input;
  void* output;
  std::size_t count;
  DataType type;
  RedOp op;
  int peer;  // or root
  Stream stream;
  Factor factor;
};

// A mark for every rank that waits, so that an abort lets one go on and not the others.
class Signals {
 public:
  explicit Signals(int world_size);
  std::shared_ptr<Mark> of(int waiting) const { return marks_[static_cast<std::size_t>(waiting)]; }
  int size() const { return static_cast<int>(marks_.size()); }

 private:
  std::vector<std::shared_ptr<Mark>> marks_;
};

class World {
 public:
  explicit World(int world_size) : joined_(static_cast<std::size_t>(world_size)), ranks_(joined_.size()) {}

  void join(int rank) { joined_[static_cast<std::size_t>(rank)] = true; }
  bool complete() const;
  int size() const { return static_cast<int>(joined_.size()); }

  // The calls of one group, or one call, on the stream that they name. A hanging rank's do not reach the others.
  void enqueue(int rank, const std::vector<Call>& calls, bool hangs);
  // Ends what the rank waits for; its operations do nothing any more.
  void abort(int rank);

  using Part = std::function<void(const std::shared_ptr<World>&, int rank)>;
  void split(int rank, int color, int key, Part part);
  bool split_complete(int rank) const;

 private:
  struct Collective;
  struct Message;
  struct Split {
    std::vector<int> colors, keys;
    std::vector<Part> parts;
    int come = 0;
  };
  struct Rank {
    std::size_t collectives = 0, splits = 0;
    std::map<int, std::size_t> sent, received;  // messages to and from each peer
    std::vector<std::shared_ptr<Mark>> awaited;
    std::shared_ptr<std::atomic<bool>> aborted = std::make_shared<std::atomic<bool>>(false);
    Stream stream = nullptr;
  };

  void collective(int rank, const Call& call);
  void messages(int rank, const std::vector<Call>& calls);
  Message& message(int from, int to, std::size_t number);
  void signal(Stream stream, const Signals& signals, std::function<void()> before);
  void await(int rank, Stream stream, const Signals& signals);
  void run(int rank, Stream stream, std::function<void()> body);

  std::deque<bool> joined_;
  std::vector<Rank> ranks_;
  std::vector<std::shared_ptr<Collective>> collectives_;
  std::map<std::pair<int, int>, std::vector<std::shared_ptr<Message>>> messages_;
  std::vector<Split> splits_;
};

}  // namespace stand_in
