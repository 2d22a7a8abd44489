// Runs the blocks of kernels one after another on the calling host thread: one fiber per CUDA thread that has to wait.
#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "emulation/fiber.hpp"
#include "emulation/schedule.hpp"
#include "emulation/shared_memory.hpp"
#include "emulation/thread.hpp"

namespace pyparallel::emulation {

struct KernelCall {
  std::string operation;  // for reports
  dim3 grid, block;
  std::size_t shared_bytes;
  std::function<void()> body;  // one thread's work
  std::uint64_t seed;
};

// Lives as long as its stream, so that threads of different streams are different to ThreadSanitizer.
class BlockRunner {
 public:
  // Returns when every thread of every block has ended.
  void run(const KernelCall& call);

  // ---- from kernels ----
  BarrierResult barrier(bool predicate, const Place& place);
  std::uint64_t meet(std::uint32_t mask, std::uint64_t value, int source_lane, bool orders_memory, const Place& place);
  SharedMemory& shared() { return *shared_; }

 private:
  struct Slot {
    Thread thread;
    Fiber* fiber = nullptr;
    bool ended = false;
    std::optional<Place> waits;
    std::uint64_t value = 0;  // what it brings to a meeting of lanes, then what it takes away
    int source_lane = 0;      // whose value it takes; kAllLanes: a bit of every lane's
    std::shared_ptr<Token> order;
  };

  // Lanes of a warp on their way to one operation.
  struct Meeting {
    std::uint32_t mask, arrived;
    Place place;
    std::shared_ptr<Token> order;  // only where the operation orders memory
  };

  struct Barrier {
    std::array<std::uint32_t, kMaxWarps> waiting{};
    int arrived = 0;
    unsigned generation = 0;
    // By parity of the generation: a fast thread may come to the next barrier before a slow one has left this one.
    std::array<BarrierResult, 2> results{};
    std::array<Token, 2> order;
    std::optional<Place> place;
  };

  static void fiber_main();
  void run_block(uint3 block_index);
  void place_threads(uint3 block_index);
  void run_thread();
  Slot* end_thread();
  void wait(Slot& slot, const Place& place);
  void resume(Slot& slot);
  void open_barrier();
  void complete(int warp, const Meeting& meeting);
  Slot& next_slot();
  Slot& current_slot();
  Fiber* take_fiber(int number);
  void give_back(Fiber* fiber);
  [[noreturn]] void report(const std::string& what) const;

  const KernelCall* call_ = nullptr;
  std::vector<Slot> slots_;
  std::optional<Schedule> schedule_;
  std::optional<Barrier> barrier_;
  std::optional<SharedMemory> shared_;
  std::optional<Token> begin_, end_;  // of the launch
  std::array<std::vector<Meeting>, kMaxWarps> meetings_;
  int live_ = 0;

  Fiber host_;
  Fiber* running_ = nullptr;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> idle_fibers_;
  // ThreadSanitizer: one fiber per thread, other ones for every second block so that neighbours are strangers.
  std::array<std::vector<std::unique_ptr<Fiber>>, 2> own_fibers_;
  unsigned block_parity_ = 0;
};

}  // namespace pyparallel::emulation
