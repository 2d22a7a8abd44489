// Shared libraries that have NCCL's names and nothing behind them: for the search.
#define NAME(name) \
  extern "C" __attribute__((visibility("default"))) int nccl##name() { return 0; }

extern "C" __attribute__((visibility("default"))) int ncclGetVersion(int* version) {
  *version = FAKE_VERSION;
  return 0;
}

NAME(GetUniqueId)
NAME(GetErrorString)
NAME(CommInitRank)
NAME(CommDestroy)
NAME(CommAbort)
NAME(CommGetAsyncError)
NAME(CommCount)
NAME(CommUserRank)
NAME(AllReduce)
NAME(Reduce)
NAME(ReduceScatter)
NAME(AllGather)
NAME(Broadcast)
NAME(Send)
#if !defined(FAKE_PART)
NAME(Recv)
#endif
NAME(GroupStart)
NAME(GroupEnd)
