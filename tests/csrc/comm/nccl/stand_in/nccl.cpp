// The C interface of the stand-in: communicators, groups, states and planted failures.
#include "comm/nccl/stand_in/nccl.hpp"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <mutex>

#include "comm/nccl/stand_in/world.hpp"

// What a handle points to. Freed with the program, so that use after the end can be told.
struct ncclComm {
  ncclComm(std::shared_ptr<stand_in::World> world_, int rank_, bool blocking_)
      : world(std::move(world_)), rank(rank_), blocking(blocking_) {}
  std::shared_ptr<stand_in::World> world;
  int rank;
  const bool blocking;
  bool ended = false, splits = false;
  int polls = 0;                  // until `pending` happens
  std::function<void()> pending;  // a call that is in progress
};

namespace stand_in {

[[noreturn]] void misuse(const std::string& what) {
  std::fprintf(stderr, "stand-in NCCL: %s\n", what.c_str());
  std::abort();
}

namespace {

std::recursive_mutex mutex;
Plan planned;
std::map<std::string, std::shared_ptr<World>> worlds;
std::vector<std::unique_ptr<ncclComm>> handles;
std::map<int, Result> broken;
std::map<int, std::vector<std::string>> logs;
std::map<int, Factor> operators;
int next_id = 0, next_operator = 5, open_count = 0, aborted_count = 0;
thread_local int group_depth = 0;
thread_local std::vector<std::pair<ncclComm*, Call>> grouped;

using pyparallel::nccl::Config;
using pyparallel::nccl::DataType;
using pyparallel::nccl::RedOp;
using pyparallel::nccl::Stream;
using pyparallel::nccl::UniqueId;
using Lock = std::lock_guard<std::recursive_mutex>;

void check_usable(const ncclComm* comm, const char* call) {
  if (comm == nullptr) misuse(std::string(call) + " with a null communicator");
  if (comm->ended) misuse(std::string(call) + " after the communicator was destroyed or aborted");
  if (comm->pending) misuse(std::string(call) + " while the last call is still in progress");
  if (!comm->world->complete()) misuse(std::string(call) + " before all ranks have joined");
}

bool fails(const ncclComm* comm, const std::string& call, Result& result) {
  if (planned.failing_rank != comm->rank || planned.failing_call != call) return false;
  planned.failing_rank = -1;
  result = planned.failure;
  return true;
}

// Now, or after some polls.
Result act(ncclComm* comm, std::function<void()> action) {
  if (comm->blocking || planned.polls == 0) {
    action();
    return Result::kSuccess;
  }
  comm->pending = std::move(action);
  comm->polls = planned.polls;
  return Result::kInProgress;
}

void take_effect(const std::vector<std::pair<ncclComm*, Call>>& calls, bool group) {
  ncclComm* const comm = calls.front().first;
  std::vector<std::string>& log = logs[comm->rank];
  std::vector<Call> all;
  if (group) log.push_back("{");
  for (const auto& [each, call] : calls) {
    if (each != comm) misuse("a group over several communicators");
    log.push_back(call.name);
    all.push_back(call);
  }
  if (group) log.push_back("}");
  comm->world->enqueue(comm->rank, all, planned.hanging_rank == comm->rank);
}

Result issue(ncclComm* comm, Call call) {
  const Lock lock(mutex);
  check_usable(comm, call.name);
  Result failure;
  if (fails(comm, call.name, failure)) return failure;
  if (call.op >= RedOp{5}) {
    const auto found = operators.find(static_cast<int>(call.op));
    if (found == operators.end()) misuse("an operator that does not exist");
    call.factor = found->second;
  }
  if (group_depth > 0) {
    grouped.emplace_back(comm, call);
    return Result::kSuccess;
  }
  return act(comm, [=] { take_effect({{comm, call}}, false); });
}

// ---- the interface ----

Result GetVersion(int* version) { return *version = 22304, Result::kSuccess; }

Result GetUniqueId(UniqueId* id) {
  const Lock lock(mutex);
  *id = {};
  std::snprintf(id->internal, sizeof id->internal, "world %d", next_id++);
  return Result::kSuccess;
}

const char* GetErrorString(Result result) {
  switch (result) {
    case Result::kSuccess:
      return "no error";
    case Result::kSystemError:
      return "unhandled system error";
    case Result::kRemoteError:
      return "remote process exited or there was a network error";
    case Result::kInvalidUsage:
      return "invalid usage";
    default:
      return "another error";
  }
}

Result CommInitRankConfig(Comm* comm, int world_size, UniqueId id, int rank, Config* config) {
  const Lock lock(mutex);
  if (config != nullptr && (config->magic != 0xcafebeef || config->size < 24)) return Result::kInvalidArgument;
  if (rank < 0 || rank >= world_size) return Result::kInvalidArgument;
  std::shared_ptr<World>& world = worlds[id.internal];
  if (!world) world = std::make_shared<World>(world_size);
  *comm = handles.emplace_back(new ncclComm(world, rank, config == nullptr || config->blocking == 1)).get();
  ++open_count;
  world->join(rank);
  Result failure;
  if (fails(*comm, "CommInitRank", failure)) return failure;
  return (*comm)->blocking || world->complete() ? Result::kSuccess : Result::kInProgress;
}

Result CommInitRank(Comm* comm, int world_size, UniqueId id, int rank) {
  return CommInitRankConfig(comm, world_size, id, rank, nullptr);
}

Result CommGetAsyncError(Comm comm, Result* error) {
  const Lock lock(mutex);
  if (comm == nullptr || comm->ended) misuse("ncclCommGetAsyncError after the end of the communicator");
  *error = Result::kSuccess;
  if (comm->pending) {
    *error = Result::kInProgress;
    if (--comm->polls > 0) return Result::kSuccess;
    const std::function<void()> action = std::move(comm->pending);
    comm->pending = nullptr;
    action();
    *error = Result::kSuccess;
  }
  if (!comm->world->complete() || (comm->splits && !comm->world->split_complete(comm->rank)))
    *error = Result::kInProgress;
  if (broken.count(comm->rank) != 0) *error = broken[comm->rank];
  return Result::kSuccess;
}

Result CommFinalize(Comm comm) {
  const Lock lock(mutex);
  check_usable(comm, "ncclCommFinalize");
  return Result::kSuccess;
}

Result CommDestroy(Comm comm) {
  const Lock lock(mutex);
  check_usable(comm, "ncclCommDestroy");
  comm->ended = true;
  --open_count;
  return Result::kSuccess;
}

Result CommAbort(Comm comm) {
  const Lock lock(mutex);
  if (comm == nullptr || comm->ended) misuse("ncclCommAbort after the end of the communicator");
  comm->ended = true;
  comm->pending = nullptr;
  comm->world->abort(comm->rank);
  --open_count;
  ++aborted_count;
  return Result::kSuccess;
}

Result CommSplit(Comm comm, int color, int key, Comm* part, Config*) {
  const Lock lock(mutex);
  check_usable(comm, "ncclCommSplit");
  *part = nullptr;
  // The world of the part is known when the last rank has come.
  const std::shared_ptr<World> world = comm->world;
  if (color >= 0) {
    *part = handles.emplace_back(new ncclComm(nullptr, -1, comm->blocking)).get();
    ++open_count;
  }
  Comm const handle = *part;
  world->split(comm->rank, color, key, [handle](const std::shared_ptr<World>& part_world, int rank) {
    handle->world = part_world;
    handle->rank = rank;
    part_world->join(rank);
  });
  comm->splits = true;
  return world->split_complete(comm->rank) ? Result::kSuccess : Result::kInProgress;
}

Result CommCount(Comm comm, int* world_size) {
  const Lock lock(mutex);
  return *world_size = comm->world->size(), Result::kSuccess;
}
Result CommUserRank(Comm comm, int* rank) {
  const Lock lock(mutex);
  return *rank = comm->rank, Result::kSuccess;
}

const char* GetLastError(Comm) { return "the stand-in's last words"; }

Result RedOpCreatePreMulSum(RedOp* op, void* scalar, DataType type, int residence, Comm comm) {
  const Lock lock(mutex);
  check_usable(comm, "ncclRedOpCreatePreMulSum");
  if (residence != pyparallel::nccl::kScalarHostImmediate) misuse("a factor that is not on the host");
  *op = static_cast<RedOp>(next_operator);
  operators[next_operator++] = {element(scalar, 0, type), type};
  return Result::kSuccess;
}

Result RedOpDestroy(RedOp op, Comm comm) {
  const Lock lock(mutex);
  check_usable(comm, "ncclRedOpDestroy");
  if (operators.erase(static_cast<int>(op)) == 0) misuse("an operator is destroyed that does not exist");
  return Result::kSuccess;
}

Result AllReduce(const void* in, void* out, std::size_t n, DataType type, RedOp op, Comm comm, Stream stream) {
  return issue(comm, {"AllReduce", in, out, n, type, op, -1, stream, {}});
}
Result Reduce(const void* in, void* out, std::size_t n, DataType type, RedOp op, int root, Comm comm, Stream stream) {
  return issue(comm, {"Reduce", in, out, n, type, op, root, stream, {}});
}
Result ReduceScatter(const void* in, void* out, std::size_t n, DataType type, RedOp op, Comm comm, Stream stream) {
  return issue(comm, {"ReduceScatter", in, out, n, type, op, -1, stream, {}});
}
Result AllGather(const void* in, void* out, std::size_t n, DataType type, Comm comm, Stream stream) {
  return issue(comm, {"AllGather", in, out, n, type, RedOp::kSum, -1, stream, {}});
}
Result Broadcast(const void* in, void* out, std::size_t n, DataType type, int root, Comm comm, Stream stream) {
  return issue(comm, {"Broadcast", in, out, n, type, RedOp::kSum, root, stream, {}});
}
Result Send(const void* in, std::size_t n, DataType type, int peer, Comm comm, Stream stream) {
  return issue(comm, {"Send", in, nullptr, n, type, RedOp::kSum, peer, stream, {}});
}
Result Recv(void* out, std::size_t n, DataType type, int peer, Comm comm, Stream stream) {
  return issue(comm, {"Recv", nullptr, out, n, type, RedOp::kSum, peer, stream, {}});
}

Result GroupStart() { return ++group_depth, Result::kSuccess; }

Result GroupEnd() {
  const Lock lock(mutex);
  if (group_depth == 0) misuse("ncclGroupEnd without ncclGroupStart");
  if (--group_depth > 0 || grouped.empty()) return Result::kSuccess;
  const auto calls = std::move(grouped);
  grouped.clear();
  return act(calls.front().first, [calls] { take_effect(calls, true); });
}

}  // namespace

// ---- for tests ----

Library library() {
  const Lock lock(mutex);
  Library table{};
  table.path = "the stand-in";
  GetVersion(&table.version);
#define SET(name) table.name = name
  SET(GetVersion), SET(GetUniqueId), SET(GetErrorString), SET(CommInitRank), SET(CommDestroy), SET(CommAbort);
  SET(CommGetAsyncError), SET(CommCount), SET(CommUserRank), SET(AllReduce), SET(Reduce), SET(ReduceScatter);
  SET(AllGather), SET(Broadcast), SET(Send), SET(Recv), SET(GroupStart), SET(GroupEnd), SET(CommInitRankConfig);
  SET(CommFinalize), SET(CommSplit), SET(GetLastError), SET(RedOpCreatePreMulSum), SET(RedOpDestroy);
#undef SET
  return table;
}

void plan(const Plan& wanted) {
  const Lock lock(mutex);
  planned = wanted;
}

void reset() {
  const Lock lock(mutex);
  planned = {};
  broken.clear();
  logs.clear();
  open_count = aborted_count = 0;
}

void break_connection(int rank, Result error) {
  const Lock lock(mutex);
  broken[rank] = error;
}

std::vector<std::string> calls(int rank) {
  const Lock lock(mutex);
  return logs[rank];
}

int open_communicators() {
  const Lock lock(mutex);
  return open_count;
}
int open_operators() {
  const Lock lock(mutex);
  return static_cast<int>(operators.size());
}
int aborted_communicators() {
  const Lock lock(mutex);
  return aborted_count;
}

}  // namespace stand_in
