// Fibers: stacks between which one host thread switches, announced to the sanitizers.
#pragma once
#include <cstddef>

#include "emulation/sanitizer.hpp"

namespace pyparallel::emulation {

class Fiber {
 public:
  // Stands for the stack on which the caller runs.
  Fiber() = default;
  // A stack of its own, on which the first switch calls `entry`, which never returns.
  explicit Fiber(void (*entry)());
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Leaves `from`, which must be the running fiber, and returns when somebody switches back to it.
  static void switch_between(Fiber& from, Fiber& to);

  // Takes over the identity of the caller; for fibers that stand for a borrowed stack.
  void adopt_identity() { identity_ = current_identity(); }

 private:
  static void start();
  void arrived();

  void (*entry_)() = nullptr;
  char* stack_ = nullptr;  // lowest usable byte
  std::size_t stack_bytes_ = 0;
  bool owns_stack_ = false;
  Identity identity_ = nullptr;
  void* fake_stack_ = nullptr;  // AddressSanitizer's
  void* resume_ = nullptr;      // on the stack that was left: where the switch goes on
};

}  // namespace pyparallel::emulation
