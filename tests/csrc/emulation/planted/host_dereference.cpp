// Host code reads device memory through a pointer.
#include "planted.hpp"

namespace pyparallel {
namespace {

template <bool kFaulty>
void run() {
  const auto values = device_zeros<float>(4);
  CHECK_EQUAL(kFaulty ? *values.data() : values.download()[0], 0.0f);
}

const Planted planted("host_dereference", run<true>, run<false>);

}  // namespace
}  // namespace pyparallel
