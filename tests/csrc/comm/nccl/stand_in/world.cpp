// How the stand-in's operations run: signals between the ranks' streams around reads and writes of their memory.
//
//   rank's stream:  here -> (all are here) -> read the others' inputs -> (all have read) -> write the output
#include "comm/nccl/stand_in/world.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>
#include <utility>

#include "core/float16.hpp"

namespace stand_in {

using pyparallel::BFloat16;
using pyparallel::Float16;
using pyparallel::emulation::Operation;
using pyparallel::emulation::Runtime;
namespace isa = pyparallel::isa_baseline;

// ---- elements ----

std::size_t element_size(DataType type) {
  switch (type) {
    case DataType::kInt8:
    case DataType::kUint8:
      return 1;
    case DataType::kFloat16:
    case DataType::kBfloat16:
      return 2;
    case DataType::kInt32:
    case DataType::kFloat32:
      return 4;
    default:
      return 8;
  }
}

namespace {

void copy(void* target, const void* source, std::size_t bytes) {
  if (bytes > 0) std::memcpy(target, source, bytes);  // an empty tensor may have no address
}

template <class T>
T& at(const void* array, std::size_t index) {
  return const_cast<T*>(static_cast<const T*>(array))[index];
}

}  // namespace

double element(const void* array, std::size_t index, DataType type) {
  switch (type) {
    case DataType::kInt8:
      return at<std::int8_t>(array, index);
    case DataType::kUint8:
      return at<std::uint8_t>(array, index);
    case DataType::kInt32:
      return at<std::int32_t>(array, index);
    case DataType::kInt64:
      return static_cast<double>(at<std::int64_t>(array, index));
    case DataType::kFloat16:
      return isa::to_float(at<Float16>(array, index));
    case DataType::kBfloat16:
      return isa::to_float(at<BFloat16>(array, index));
    case DataType::kFloat32:
      return at<float>(array, index);
    case DataType::kFloat64:
      return at<double>(array, index);
  }
  misuse("a dtype that NCCL does not have");
}

void set_element(void* array, std::size_t index, DataType type, double value) {
  switch (type) {
    case DataType::kInt8:
      at<std::int8_t>(array, index) = static_cast<std::int8_t>(value);
      return;
    case DataType::kUint8:
      at<std::uint8_t>(array, index) = static_cast<std::uint8_t>(value);
      return;
    case DataType::kInt32:
      at<std::int32_t>(array, index) = static_cast<std::int32_t>(value);
      return;
    case DataType::kInt64:
      at<std::int64_t>(array, index) = static_cast<std::int64_t>(value);
      return;
    case DataType::kFloat16:
      at<Float16>(array, index) = isa::from_float<Float16>(static_cast<float>(value));
      return;
    case DataType::kBfloat16:
      at<BFloat16>(array, index) = isa::from_float<BFloat16>(static_cast<float>(value));
      return;
    case DataType::kFloat32:
      at<float>(array, index) = static_cast<float>(value);
      return;
    case DataType::kFloat64:
      at<double>(array, index) = value;
      return;
  }
}

// ---- operations ----

struct World::Collective {
  explicit Collective(int world_size) : calls(static_cast<std::size_t>(world_size)), staged(calls.size()) {
    for (int r = 0; r < world_size; ++r) {
      here.emplace_back(world_size);
      read.emplace_back(world_size);
    }
  }
  std::vector<Call> calls;
  std::vector<std::vector<char>> staged;  // results, by rank
  std::vector<Signals> here, read;        // by the rank that gives them
  int come = 0;

  double combined(std::size_t index) const {
    double result = 0;
    for (std::size_t r = 0; r < calls.size(); ++r) {
      const Call& call = calls[r];
      const double value = element(call.input, index, call.type) * call.factor.value;
      if (r == 0)
        result = value;
      else if (call.op == RedOp::kProd)
        result *= value;
      else if (call.op == RedOp::kMax)
        result = std::max(result, value);
      else if (call.op == RedOp::kMin)
        result = std::min(result, value);
      else
        result += value;
    }
    return calls[0].op == RedOp::kAvg ? result / static_cast<double>(calls.size()) : result;
  }

  // What `rank` gets; empty where it gets nothing.
  std::vector<char> result_of(std::size_t rank) const {
    const Call& call = calls[rank];
    const std::size_t size = element_size(call.type);
    const std::string name = call.name;
    if (name == "Reduce" && call.peer != static_cast<int>(rank)) return {};
    std::vector<char> bytes(call.count * size * (name == "AllGather" ? calls.size() : 1));
    if (name == "AllGather") {
      for (std::size_t r = 0; r < calls.size(); ++r)
        copy(bytes.data() + r * call.count * size, calls[r].input, call.count * size);
    } else if (name == "Broadcast") {
      copy(bytes.data(), calls[static_cast<std::size_t>(call.peer)].input, bytes.size());
    } else {
      const std::size_t first = name == "ReduceScatter" ? rank * call.count : 0;
      for (std::size_t i = 0; i < call.count; ++i) set_element(bytes.data(), i, call.type, combined(first + i));
    }
    return bytes;
  }
};

struct World::Message {
  explicit Message(int world_size) : sent(world_size), posted(world_size) {}
  Signals sent, posted;
  std::vector<char> data;
  std::size_t send_bytes = SIZE_MAX, receive_bytes = SIZE_MAX;
};

static void put(Stream stream, Operation operation) {
  const pyparallel::emulation::Unseen unseen;
  Runtime& runtime = Runtime::get();
  runtime.enqueue(runtime.find(stream), std::move(operation));
}

Signals::Signals(int world_size) {
  for (int r = 0; r < world_size; ++r) marks_.push_back(std::make_shared<Mark>());
}

bool World::complete() const {
  return std::all_of(joined_.begin(), joined_.end(), [](bool joined) { return joined; });
}

void World::signal(Stream stream, const Signals& signals, std::function<void()> before) {
  for (int waiting = 0; waiting < signals.size(); ++waiting) {
    Operation operation;
    if (waiting == 0 && before) operation.run = [before](auto&) { before(); };
    operation.mark = signals.of(waiting);
    put(stream, std::move(operation));
  }
}

void World::await(int rank, Stream stream, const Signals& signals) {
  Operation operation;
  operation.wait = signals.of(rank);
  ranks_[static_cast<std::size_t>(rank)].awaited.push_back(operation.wait);
  put(stream, std::move(operation));
}

void World::run(int rank, Stream stream, std::function<void()> body) {
  Operation operation;
  operation.run = [body = std::move(body), aborted = ranks_[static_cast<std::size_t>(rank)].aborted](auto&) {
    if (!*aborted) body();
  };
  put(stream, std::move(operation));
}

void World::enqueue(int rank, const std::vector<Call>& calls, bool hangs) {
  Rank& self = ranks_[static_cast<std::size_t>(rank)];
  self.stream = calls.front().stream;
  if (self.awaited.size() > 10'000) std::erase_if(self.awaited, [](const auto& mark) { return mark->reached; });
  if (hangs) return await(rank, self.stream, Signals(size()));
  const bool is_message =
      calls.front().peer >= 0 && std::string("Send Recv").find(calls.front().name) != std::string::npos;
  if (is_message) return messages(rank, calls);
  for (const Call& call : calls) collective(rank, call);
}

void World::collective(int rank, const Call& call) {
  const std::size_t number = ranks_[static_cast<std::size_t>(rank)].collectives++,
                    self = static_cast<std::size_t>(rank);
  if (number == collectives_.size()) collectives_.push_back(std::make_shared<Collective>(size()));
  const std::shared_ptr<Collective> all = collectives_[number];
  for (const Call& other : all->calls)
    if (other.name != nullptr && (std::string(other.name) != call.name || other.count != call.count ||
                                  other.type != call.type || other.peer != call.peer))
      misuse(std::string("ranks disagree: ") + other.name + " and " + call.name);
  all->calls[self] = call;
  if (++all->come == size()) collectives_[number].reset();  // the streams keep it
  signal(call.stream, all->here[self], nullptr);
  for (const Signals& here : all->here) await(rank, call.stream, here);
  run(rank, call.stream, [all, self] { all->staged[self] = all->result_of(self); });
  signal(call.stream, all->read[self], nullptr);
  for (const Signals& read : all->read) await(rank, call.stream, read);
  run(rank, call.stream, [all, self] {
    const std::vector<char>& result = all->staged[self];
    if (!result.empty()) copy(all->calls[self].output, result.data(), result.size());
  });
}

World::Message& World::message(int from, int to, std::size_t number) {
  auto& queue = messages_[{from, to}];
  while (queue.size() <= number) queue.push_back(std::make_shared<Message>(size()));
  return *queue[number];
}

void World::messages(int rank, const std::vector<Call>& calls) {
  Rank& self = ranks_[static_cast<std::size_t>(rank)];
  std::vector<std::pair<std::shared_ptr<Message>, Call>> all;
  for (const Call& call : calls) {
    if (call.stream != self.stream) misuse("a group on several streams");
    const bool sends = call.input != nullptr;
    const int from = sends ? rank : call.peer, to = sends ? call.peer : rank;
    const std::size_t number = sends ? self.sent[to]++ : self.received[from]++,
                      bytes = call.count * element_size(call.type);
    Message& entry = message(from, to, number);
    (sends ? entry.send_bytes : entry.receive_bytes) = bytes;
    if (entry.send_bytes != SIZE_MAX && entry.receive_bytes != SIZE_MAX && entry.send_bytes != entry.receive_bytes)
      misuse("a send of " + std::to_string(entry.send_bytes) + " bytes meets a receive of " +
             std::to_string(entry.receive_bytes));
    all.emplace_back(messages_[{from, to}][number], call);
  }
  for (const auto& [entry, call] : all) {
    const auto message = entry;
    if (call.input != nullptr)
      signal(call.stream, message->sent, [message, call, aborted = self.aborted] {
        const char* const first = static_cast<const char*>(call.input);
        if (!*aborted) message->data.assign(first, first + call.count * element_size(call.type));
      });
    else
      signal(call.stream, message->posted, nullptr);
  }
  for (const auto& [entry, call] : all) {
    const auto message = entry;
    await(rank, call.stream, call.input != nullptr ? message->posted : message->sent);
    if (call.input == nullptr)
      run(rank, call.stream, [message, output = call.output] {
        copy(output, message->data.data(), message->data.size());
        message->data.clear();
      });
  }
}

void World::abort(int rank) {
  Rank& self = ranks_[static_cast<std::size_t>(rank)];
  *self.aborted = true;
  Runtime& runtime = Runtime::get();
  {
    const std::lock_guard<pyparallel::emulation::Lock> lock(runtime.lock);
    for (const auto& mark : self.awaited) mark->reached = true;
  }
  if (self.stream != nullptr && runtime.find(self.stream) != nullptr)
    put(self.stream, {});  // wakes who waited for them
}

// ---- split ----

void World::split(int rank, int color, int key, Part part) {
  Rank& self = ranks_[static_cast<std::size_t>(rank)];
  const std::size_t number = self.splits++, ranks = joined_.size();
  if (number == splits_.size())
    splits_.push_back({std::vector<int>(ranks), std::vector<int>(ranks), std::vector<Part>(ranks), 0});
  Split& all = splits_[number];
  all.colors[static_cast<std::size_t>(rank)] = color;
  all.keys[static_cast<std::size_t>(rank)] = key;
  all.parts[static_cast<std::size_t>(rank)] = std::move(part);
  if (++all.come < size()) return;
  std::map<int, std::vector<std::pair<int, std::size_t>>> members;
  for (std::size_t r = 0; r < ranks; ++r)
    if (all.colors[r] >= 0) members[all.colors[r]].emplace_back(all.keys[r], r);
  for (auto& [each, list] : members) {
    std::sort(list.begin(), list.end());
    const auto world = std::make_shared<World>(static_cast<int>(list.size()));
    for (std::size_t r = 0; r < list.size(); ++r) all.parts[list[r].second](world, static_cast<int>(r));
  }
}

bool World::split_complete(int rank) const {
  return splits_[ranks_[static_cast<std::size_t>(rank)].splits - 1].come == size();
}

}  // namespace stand_in
