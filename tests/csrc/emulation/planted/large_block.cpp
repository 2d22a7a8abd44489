// A block of 2048 threads.
#include "planted.hpp"

namespace pyparallel {
namespace {

__global__ void nothing() {}

template <bool kFaulty>
void run() {
  launch({"nothing", 1, kFaulty ? 2048 : 128, nullptr}, nothing);
  synchronize();
}

const Planted planted("large_block", run<true>, run<false>);

}  // namespace
}  // namespace pyparallel
