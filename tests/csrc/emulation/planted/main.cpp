// Runs one planted fault: planted NAME faulty|fixed.
#include <exception>
#include <map>

#include "planted.hpp"

namespace pyparallel {
namespace {

struct Versions {
  void (*faulty)();
  void (*fixed)();
};

std::map<std::string, Versions>& all_planted() {
  static std::map<std::string, Versions> all;
  return all;
}

}  // namespace

Planted::Planted(const char* name, void (*faulty)(), void (*fixed)()) { all_planted()[name] = {faulty, fixed}; }

}  // namespace pyparallel

int main(int argc, char** argv) {
  using namespace pyparallel;
  const std::string version = argc == 3 ? argv[2] : "";
  const auto planted = all_planted().find(argc == 3 ? argv[1] : "");
  if (planted == all_planted().end() || (version != "faulty" && version != "fixed")) {
    std::cerr << "usage: planted NAME faulty|fixed\n";
    return 2;
  }
  try {
    (version == "faulty" ? planted->second.faulty : planted->second.fixed)();
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
