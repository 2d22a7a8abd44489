// The few lines a native test needs: a check that prints both values and a seed that can be repeated.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <random>

// Prints the place and both values, then ends the program.
#define CHECK_EQUAL(actual, expected)                                                                                \
  do {                                                                                                               \
    const auto actual_ = (actual);                                                                                   \
    const auto expected_ = (expected);                                                                               \
    if (!(actual_ == expected_)) {                                                                                   \
      std::cerr << __FILE__ << ":" << __LINE__ << ": " #actual " is " << +actual_ << ", not " << +expected_ << "\n"; \
      std::exit(1);                                                                                                  \
    }                                                                                                                \
  } while (false)

#define CHECK_CLOSE(actual, expected, tolerance)                                                                   \
  do {                                                                                                             \
    const double actual_ = (actual), expected_ = (expected);                                                       \
    if (!(std::abs(actual_ - expected_) <= (tolerance))) {                                                         \
      std::cerr << __FILE__ << ":" << __LINE__ << ": " #actual " is " << actual_ << ", not " << expected_ << "\n"; \
      std::exit(1);                                                                                                \
    }                                                                                                              \
  } while (false)

#define CHECK_THROWS(expression, type)                                                           \
  do {                                                                                           \
    bool thrown_ = false;                                                                        \
    try {                                                                                        \
      expression;                                                                                \
    } catch (const type&) {                                                                      \
      thrown_ = true;                                                                            \
    }                                                                                            \
    if (!thrown_) {                                                                              \
      std::cerr << __FILE__ << ":" << __LINE__ << ": " #expression " did not throw " #type "\n"; \
      std::exit(1);                                                                              \
    }                                                                                            \
  } while (false)

// A fresh generator; its seed is printed and can be given back in PYPARALLEL_SEED.
inline std::mt19937_64 fresh_random() {
  const char* given = std::getenv("PYPARALLEL_SEED");
  const std::uint64_t seed = given ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  std::cout << "seed " << seed << std::endl;
  return std::mt19937_64(seed);
}
