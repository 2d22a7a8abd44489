// What the emulator tells the sanitizers: who runs, what is ordered, which memory is out of reach. Empty in plain
// builds.
//
// The emulator itself is compiled without instrumentation, so that only the program under test is judged.
// EMULATION_TSAN and EMULATION_ASAN say which sanitizer the rest of the program has.
#pragma once
#include <cstddef>

#if defined(EMULATION_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(EMULATION_TSAN)
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

namespace pyparallel::emulation {

#if defined(EMULATION_TSAN)
inline constexpr bool kTsan = true, kAsan = false;
#elif defined(EMULATION_ASAN)
inline constexpr bool kTsan = false, kAsan = true;
#else
inline constexpr bool kTsan = false, kAsan = false;
#endif

// ---- ThreadSanitizer: identities and order ----

// A thread as ThreadSanitizer sees it. A new one knows what its creator knows, so it is created where that is right.
using Identity = void*;

#if defined(EMULATION_TSAN)
inline Identity create_identity() { return __tsan_create_fiber(0); }
inline void destroy_identity(Identity identity) { __tsan_destroy_fiber(identity); }
inline Identity current_identity() { return __tsan_get_current_fiber(); }
inline void become(Identity identity) { __tsan_switch_to_fiber(identity, __tsan_switch_to_fiber_no_sync); }
inline void release_order(void* token) { __tsan_release(token); }
inline void acquire_order(void* token) { __tsan_acquire(token); }
#else
inline Identity create_identity() { return nullptr; }
inline void destroy_identity(Identity) {}
inline Identity current_identity() { return nullptr; }
inline void become(Identity) {}
inline void release_order(void*) {}
inline void acquire_order(void*) {}
#endif

// While one is alive, allocations and copies of this identity are the emulator's own and not part of the program.
class Unseen {
 public:
#if defined(EMULATION_TSAN)
  Unseen() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~Unseen() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
#else
  Unseen() {}
  ~Unseen() {}
#endif
  Unseen(const Unseen&) = delete;
  Unseen& operator=(const Unseen&) = delete;
};

// An edge of the happens-before order: what was done before release() is visible after acquire(). Memory of its own, so
// that no order outlives it.
class Token {
 public:
  Token() : place_(kTsan ? new char : nullptr) {}
  ~Token() { delete place_; }
  Token(const Token&) = delete;
  Token& operator=(const Token&) = delete;

  void release() { release_order(place_); }
  void acquire() { acquire_order(place_); }

 private:
  char* place_;
};

// ---- AddressSanitizer: memory that may not be touched ----

#if defined(EMULATION_ASAN)
inline void poison(const void* memory, std::size_t bytes) { __asan_poison_memory_region(memory, bytes); }
inline void unpoison(const void* memory, std::size_t bytes) { __asan_unpoison_memory_region(memory, bytes); }
#else
inline void poison(const void*, std::size_t) {}
inline void unpoison(const void*, std::size_t) {}
#endif

}  // namespace pyparallel::emulation
