// A stand-in for libnccl.so.2 over the emulated CUDA runtime: NCCL's C interface, ranks in one process.
//
// It does what NCCL documents and no more: a call is enqueued on the given stream and waits there, not on the host, for
// the other ranks; calls in a group take effect together at its end; a send ends when its receive has been posted.
// Misuse ends the program with a report.
#pragma once
#include <string>
#include <vector>

#include "comm/nccl/library.hpp"

namespace stand_in {

using pyparallel::nccl::Comm;
using pyparallel::nccl::Library;
using pyparallel::nccl::Result;

// All functions; tests take some away.
Library library();

// What every rank's communicators do from now on, until reset().
struct Plan {
  int polls = 0;                  // non-blocking calls are in progress for so many ncclCommGetAsyncError
  int failing_rank = -1;          // whose next call of `failing_call` gives `failure`
  std::string failing_call = {};  // "AllReduce"
  Result failure = Result::kSuccess;
  int hanging_rank = -1;  // whose operations never reach the others
};
void plan(const Plan& wanted);
void reset();

// From now on ncclCommGetAsyncError of this rank's communicators says so.
void break_connection(int rank, Result error);

// "AllReduce", "Send", ... of a rank in the order in which they took effect; a group as "{", its calls, "}".
std::vector<std::string> calls(int rank);
// Communicators that were neither destroyed nor aborted; operators with a factor that still exist.
int open_communicators();
int open_operators();
int aborted_communicators();

}  // namespace stand_in
