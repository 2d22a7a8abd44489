// Atomics under their CUDA names, for the types that a device has them for. Relaxed, as on a device: they order
// nothing.
#pragma once
#include <bit>
#include <concepts>
#include <cstdint>
#include <type_traits>

namespace pyparallel::emulation {

template <class T, class... Allowed>
concept OneOf = (std::same_as<T, Allowed> || ...);

template <class T>
concept AtomicInteger = OneOf<T, int, unsigned, unsigned long long>;

template <class T>
concept AtomicNumber = AtomicInteger<T> || OneOf<T, float, double>;

template <class T>
using AtomicBits = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>;

// Replaces *address by change(*address) and returns what was there.
template <class T, class Change>
T exchange_atomically(T* address, const Change& change) {
  using Bits = AtomicBits<T>;
  Bits* const place = reinterpret_cast<Bits*>(address);
  Bits old = __atomic_load_n(place, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(place, &old, std::bit_cast<Bits>(change(std::bit_cast<T>(old))), false,
                                      __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return std::bit_cast<T>(old);
}

}  // namespace pyparallel::emulation

template <pyparallel::emulation::AtomicNumber T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  return pyparallel::emulation::exchange_atomically(address, [=](T old) { return static_cast<T>(old + value); });
}

template <class T>
  requires pyparallel::emulation::AtomicInteger<T> || std::same_as<T, long long>
T atomicMax(T* address, std::type_identity_t<T> value) {
  return pyparallel::emulation::exchange_atomically(address, [=](T old) { return old > value ? old : value; });
}

template <class T>
  requires pyparallel::emulation::AtomicInteger<T> || std::same_as<T, long long>
T atomicMin(T* address, std::type_identity_t<T> value) {
  return pyparallel::emulation::exchange_atomically(address, [=](T old) { return old < value ? old : value; });
}

template <pyparallel::emulation::AtomicInteger T>
T atomicOr(T* address, std::type_identity_t<T> value) {
  return pyparallel::emulation::exchange_atomically(address, [=](T old) { return old | value; });
}

template <class T>
  requires pyparallel::emulation::AtomicInteger<T> || std::same_as<T, float>
T atomicExch(T* address, std::type_identity_t<T> value) {
  return pyparallel::emulation::exchange_atomically(address, [=](T) { return value; });
}

template <pyparallel::emulation::AtomicInteger T>
T atomicCAS(T* address, std::type_identity_t<T> compare, std::type_identity_t<T> value) {
  return pyparallel::emulation::exchange_atomically(address, [=](T old) { return old == compare ? value : old; });
}
