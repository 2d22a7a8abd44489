// Finding GOMP_parallel in the process: the stable entry of libgomp, which libomp and libiomp5 also export.
#include "core/borrowed_team.hpp"

#include <dlfcn.h>
#include <link.h>

#include <cstring>
#include <string>

namespace pyparallel {
namespace {

struct Runtime {
  void (*parallel)(void (*)(void*), void*, unsigned threads, unsigned flags) = nullptr;
  int (*in_parallel)() = nullptr;
};

// Remembers the path of the first OpenMP runtime among the loaded libraries; Python loads torch's out of sight of
// dlsym.
int remember_openmp(dl_phdr_info* info, std::size_t, void* path) {
  const char* const slash = std::strrchr(info->dlpi_name, '/');
  const char* const file = slash ? slash + 1 : info->dlpi_name;
  for (const char* known : {"libgomp", "libomp", "libiomp5"})
    if (std::strncmp(file, known, std::strlen(known)) == 0) {
      *static_cast<std::string*>(path) = info->dlpi_name;
      return 1;
    }
  return 0;
}

Runtime find_runtime() {
  std::string path;
  if (dl_iterate_phdr(&remember_openmp, &path) == 0) return {};
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_NOLOAD);
  if (library == nullptr) return {};
  Runtime runtime;
  runtime.parallel = reinterpret_cast<decltype(runtime.parallel)>(dlsym(library, "GOMP_parallel"));
  runtime.in_parallel = reinterpret_cast<decltype(runtime.in_parallel)>(dlsym(library, "omp_in_parallel"));
  return runtime.parallel && runtime.in_parallel ? runtime : Runtime{};
}

}  // namespace

bool run_on_borrowed_team(int threads, void (*body)(void*), void* context) {
  static const Runtime runtime = find_runtime();
  if (runtime.parallel == nullptr || runtime.in_parallel() != 0) return false;
  runtime.parallel(body, context, static_cast<unsigned>(threads), 0);
  return true;
}

}  // namespace pyparallel
