// Call sites of Python programs: the frames that a thread is in, numbered. Part of the bindings, not of the core.
#pragma once
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "memory/recorder.hpp"

namespace pyparallel {

struct Frame {
  std::string file, function;
  int line;
};

// Looks only when the thread has the GIL (or, without a GIL, is attached to the interpreter), and never asks for it.
// Numbers are of the process, so pools agree on them. Code objects that were seen are kept for good.
class PythonSites : public memory::Sites {
 public:
  // Takes the innermost `frames` frames; those of files in the folder `own`, where the allocators themselves are
  // written, do not count while they are innermost.
  PythonSites(int frames, std::string own) : frames_(frames), own_(std::move(own)) {}

  memory::CallSite here() noexcept override;
  std::string describe(memory::CallSite site) const override;
  // The innermost first; empty for 0.
  static std::vector<Frame> frames_of(memory::CallSite site);

  static constexpr int kMostFrames = 60;

 private:
  const int frames_;
  const std::string own_;
};

// While it lives, its thread is at `observer`'s call site of its beginning, even where it has let the GIL go.
class HeldSite {
 public:
  explicit HeldSite(memory::Observer* observer);
  ~HeldSite();
  HeldSite(const HeldSite&) = delete;
  HeldSite& operator=(const HeldSite&) = delete;

 private:
  const std::optional<memory::CallSite> before_;
};

}  // namespace pyparallel
