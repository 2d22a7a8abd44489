// The library is found where it should be, or everything that was tried is named.
#include "comm/nccl/library.hpp"

#include <dlfcn.h>

#include <functional>
#include <string>

#include "check.hpp"
#include "core/error.hpp"

using namespace pyparallel;
using namespace pyparallel::nccl;

namespace {

// Beside this program: libraries that have a part of NCCL's names (see fake_library.cpp).
std::string folder;

std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const NcclError& error) {
    CHECK_EQUAL(error.code, -1);
    return error.what();
  }
  return "no error";
}

void check_text(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return;
  std::cerr << "'" << text << "' does not say '" << part << "'\n";
  std::exit(1);
}

void the_named_library_is_taken_and_no_other() {
  const std::string given = folder + "/libnccl_complete.so";
  const Library library = open_library(given, {folder + "/libnccl_old.so"});
  CHECK_EQUAL(library.path == given, true);
  CHECK_EQUAL(library.version, 22304);
  CHECK_EQUAL(library.AllReduce != nullptr, true);
  CHECK_EQUAL(library.CommSplit == nullptr, true);  // optional, and not there
  const std::string text = error_of([] { open_library("/nowhere/libnccl.so", {folder + "/libnccl_complete.so"}); });
  check_text(text, "/nowhere/libnccl.so (PYPARALLEL_NCCL_LIBRARY)");
}

void candidates_come_in_their_order() {
  const std::string complete = folder + "/libnccl_complete.so";
  const Library library = open_library("", {"/nowhere/libnccl.so.2", complete});
  CHECK_EQUAL(library.path == complete, true);
}

void a_loaded_library_comes_first() {
  void* const loaded = dlopen((folder + "/libnccl.so.2").c_str(), RTLD_NOW | RTLD_LOCAL);
  CHECK_EQUAL(loaded != nullptr, true);
  const Library library = open_library("", {folder + "/libnccl_complete.so"});
  CHECK_EQUAL(library.path == "libnccl.so.2", true);
  CHECK_EQUAL(library.version, 23000);
  dlclose(loaded);
}

void what_does_not_fit_is_named() {
  check_text(error_of([] { open_library("", {"/nowhere/a", "/nowhere/b"}); }), "/nowhere/a (beside torch)");
  check_text(error_of([] { open_library("", {"/nowhere/a", "/nowhere/b"}); }), "libnccl.so.2 (the system's)");
  check_text(error_of([] { open_library(folder + "/libnccl_old.so", {}); }), "is NCCL 2.4.8; 2.7 is the oldest");
  check_text(error_of([] { open_library(folder + "/libnccl_part.so", {}); }), "has no ncclRecv");
}

}  // namespace

int main(int, char** arguments) {
  const std::string program = arguments[0];
  folder = program.substr(0, program.rfind('/')) + "/nccl_libraries";
  what_does_not_fit_is_named();
  the_named_library_is_taken_and_no_other();
  candidates_come_in_their_order();
  a_loaded_library_comes_first();
}
