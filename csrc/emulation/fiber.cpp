// Fibers on mapped stacks: a hand-written switch on x86-64, ucontext elsewhere.
#include "emulation/fiber.hpp"

#include <sys/mman.h>

#include <cstdint>
#include <new>
#include <utility>

#include "emulation/report.hpp"

#if !defined(__x86_64__) && !defined(EMULATION_UCONTEXT)
#define EMULATION_UCONTEXT 1  // the portable switch: slower, two system calls
#endif
#if defined(EMULATION_UCONTEXT)
#include <ucontext.h>
#else
// Saves what a function call must keep on the old stack, exchanges the stack pointers and returns on the new stack.
extern "C" void pyparallel_emulation_switch(void** save, void* resume);
asm(R"(
.text
.type pyparallel_emulation_switch,@function
pyparallel_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size pyparallel_emulation_switch,.-pyparallel_emulation_switch
)");
#endif

namespace pyparallel::emulation {
namespace {

inline constexpr std::size_t kStackBytes = 256 << 10;  // kernel arguments of 32 KB lie here, some of them twice
inline constexpr std::size_t kGuardBytes = 4096;
inline constexpr std::size_t kCacheLine = 64;

// The last switch of this host thread. A fiber may go on on another host thread than it left, so the compiler must not
// keep the address of a thread's variable across a switch.
struct Switch {
  Fiber *from, *to;
};

__attribute__((noinline)) Switch& last_switch() {
  static constinit thread_local Switch last = {nullptr, nullptr};
  asm volatile("");
  return last;
}

char* map_stack() {
  void* const memory = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, kGuardBytes, PROT_NONE) != 0) fail("no memory for another stack");
  return static_cast<char*>(memory) + kGuardBytes;
}

// Stacks start at different cache sets: without this the frames of all threads evict each other.
std::size_t next_colour() {
  static constinit thread_local unsigned count = 0;
  return (count++ * 11 % 61) * kCacheLine;
}

}  // namespace

Fiber::Fiber(void (*entry)())
    : entry_(entry), stack_(map_stack()), stack_bytes_(kStackBytes), owns_stack_(true), identity_(create_identity()) {
  const std::size_t usable = stack_bytes_ - next_colour();
#if defined(EMULATION_UCONTEXT)
  auto* const context = new (stack_) ucontext_t{};  // read before the stack reaches down to it
  getcontext(context);
  context->uc_stack.ss_sp = stack_;
  context->uc_stack.ss_size = usable;
  context->uc_link = nullptr;
  makecontext(context, &Fiber::start, 0);
  resume_ = context;
#else
  void** top = reinterpret_cast<void**>(stack_ + usable);
  *--top = nullptr;  // start() finds the stack as after a call
  *--top = reinterpret_cast<void*>(&Fiber::start);
  for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
  resume_ = top;
#endif
}

Fiber::~Fiber() {
  if (!owns_stack_) return;
  unpoison(stack_, stack_bytes_);
  munmap(stack_ - kGuardBytes, kGuardBytes + stack_bytes_);
  if (identity_ != nullptr) destroy_identity(identity_);
}

void Fiber::switch_between(Fiber& from, Fiber& to) {
  last_switch() = {&from, &to};
#if defined(EMULATION_ASAN)
  __sanitizer_start_switch_fiber(&from.fake_stack_, to.stack_, to.stack_bytes_);
#endif
  become(to.identity_);
#if defined(EMULATION_UCONTEXT)
  ucontext_t left;
  from.resume_ = &left;
  swapcontext(&left, static_cast<ucontext_t*>(to.resume_));
#else
  pyparallel_emulation_switch(&from.resume_, to.resume_);
#endif
  from.arrived();
}

// On the new stack: AddressSanitizer learns that the switch is over, and we learn the borders of a borrowed stack.
void Fiber::arrived() {
#if defined(EMULATION_ASAN)
  const void* bottom = nullptr;
  std::size_t bytes = 0;
  __sanitizer_finish_switch_fiber(fake_stack_, &bottom, &bytes);
  Fiber& departed = *last_switch().from;
  if (!departed.owns_stack_) {
    departed.stack_ = static_cast<char*>(const_cast<void*>(bottom));
    departed.stack_bytes_ = bytes;
  }
#endif
}

void Fiber::start() {
  Fiber& self = *last_switch().to;
  self.arrived();
  self.entry_();
  fail("a fiber's entry returned");
}

}  // namespace pyparallel::emulation
