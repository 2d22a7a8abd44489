// Finds libnccl.so.2 and takes its functions by name. It is never closed: its threads may outlive every communicator.
#include "comm/nccl/library.hpp"

#include <dlfcn.h>

#include "core/error.hpp"

namespace pyparallel::nccl {
namespace {

inline constexpr const char* kName = "libnccl.so.2";

struct Candidate {
  std::string path;
  int flags;
  const char* whose;
};

template <class Function>
void take(void* handle, const char* name, Function*& function) {
  function = reinterpret_cast<Function*>(dlsym(handle, name));
}

template <class Function>
void require(void* handle, const std::string& path, const char* name, Function*& function) {
  take(handle, name, function);
  if (function == nullptr) throw NcclError(-1, path + " has no " + name + ": it is no NCCL, or older than 2.7");
}

std::string readable(int version) {
  const int major = version < 10000 ? version / 1000 : version / 10000;
  const int minor = version < 10000 ? version % 1000 / 100 : version % 10000 / 100;
  return std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(version % 100);
}

Library functions_of(void* handle, const std::string& path) {
  Library library{};
  library.path = path;
#define REQUIRE(name) require(handle, path, "nccl" #name, library.name)
#define TAKE(name) take(handle, "nccl" #name, library.name)
  REQUIRE(GetVersion);
  if (library.GetVersion(&library.version) != Result::kSuccess) throw NcclError(-1, path + " does not say its version");
  if (library.version < kMinimumVersion)
    throw NcclError(-1, path + " is NCCL " + readable(library.version) + "; 2.7 is the oldest with send and receive");
  REQUIRE(GetUniqueId);
  REQUIRE(GetErrorString);
  REQUIRE(CommInitRank);
  REQUIRE(CommDestroy);
  REQUIRE(CommAbort);
  REQUIRE(CommGetAsyncError);
  REQUIRE(CommCount);
  REQUIRE(CommUserRank);
  REQUIRE(AllReduce);
  REQUIRE(Reduce);
  REQUIRE(ReduceScatter);
  REQUIRE(AllGather);
  REQUIRE(Broadcast);
  REQUIRE(Send);
  REQUIRE(Recv);
  REQUIRE(GroupStart);
  REQUIRE(GroupEnd);
  TAKE(CommInitRankConfig);
  TAKE(CommFinalize);
  TAKE(CommSplit);
  TAKE(GetLastError);
  TAKE(RedOpCreatePreMulSum);
  TAKE(RedOpDestroy);
#undef TAKE
#undef REQUIRE
  return library;
}

}  // namespace

Library open_library(const std::string& override, const std::vector<std::string>& candidates) {
  std::vector<Candidate> places;
  if (!override.empty()) {
    places.push_back({override, RTLD_NOW | RTLD_LOCAL, "PYPARALLEL_NCCL_LIBRARY"});
  } else {
    places.push_back({kName, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD, "loaded already"});
    for (const std::string& path : candidates) places.push_back({path, RTLD_NOW | RTLD_LOCAL, "beside torch"});
    places.push_back({kName, RTLD_NOW | RTLD_LOCAL, "the system's"});
  }
  std::string tried;
  for (const Candidate& place : places) {
    dlerror();
    if (void* const handle = dlopen(place.path.c_str(), place.flags)) return functions_of(handle, place.path);
    const char* const reason = dlerror();  // null where RTLD_NOLOAD finds nothing
    tried += "\n  " + place.path + " (" + place.whose + "): " + (reason != nullptr ? reason : "not loaded");
  }
  throw NcclError(-1, "the NCCL library was not found; tried:" + tried +
                          "\nInstall a CUDA build of torch, which brings it, or name it in PYPARALLEL_NCCL_LIBRARY");
}

}  // namespace pyparallel::nccl
