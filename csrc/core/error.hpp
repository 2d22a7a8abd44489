// Typed errors of the core. bindings.cpp turns each into the Python exception of the same name (pyparallel/errors.py).
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>

namespace pyparallel {

// A caller's mistake: ValueError in Python.
struct InvalidArgument : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

struct CudaError : std::runtime_error {
  CudaError(int code_, const std::string& what) : std::runtime_error(what), code(code_) {}
  int code;  // cudaError_t
};

// Memory that was asked for and is not there.
struct OutOfMemoryError : std::runtime_error {
  OutOfMemoryError(std::uint64_t requested_, std::uint64_t available_, const std::string& what)
      : std::runtime_error(what), requested(requested_), available(available_) {}
  std::uint64_t requested, available;  // bytes
};

// A rank of the communicator died or left.
struct PeerLostError : std::runtime_error {
  PeerLostError(int rank_, const std::string& what) : std::runtime_error(what), rank(rank_) {}
  int rank;
};

// A rank of the communicator said that it has failed.
struct PeerFailedError : std::runtime_error {
  PeerFailedError(int rank_, const std::string& operation_, const std::string& cause_, const std::string& what)
      : std::runtime_error(what), rank(rank_), operation(operation_), cause(cause_) {}
  int rank;
  std::string operation, cause;
};

// Ranks called different operations, sizes or dtypes.
struct CollectiveMismatchError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A collective did not complete before its deadline although every rank is alive.
struct CollectiveTimeoutError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct NcclError : std::runtime_error {
  NcclError(int code_, const std::string& what) : std::runtime_error(what), code(code_) {}
  int code;  // ncclResult_t; -1 if no call was made
};

}  // namespace pyparallel
