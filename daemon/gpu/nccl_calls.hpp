// Every call of NCCL that we make, once. The table of nccl.hpp, its search for symbols, the comparison with NVIDIA's
// nccl.h and the check of README.md are made from this list.
//
// call(our name, NCCL's name, the version since when NCCL has it, the signature)
// What is newer than nccl_version_min is null in the table of an older library; README.md says what is done then.
#pragma once

#include "gpu/nccl_abi.hpp"

// clang-format off
#define MUSTER_NCCL_CALLS(call) \
  call(get_version, ncclGetVersion, 20000, Status(int* version)) \
  call(get_error_string, ncclGetErrorString, 20000, const char*(Status status)) \
  call(get_last_error, ncclGetLastError, 21300, const char*(Communicator communicator)) \
  /* communicators */ \
  call(get_unique_id, ncclGetUniqueId, 20000, Status(UniqueId* id)) \
  call(comm_init_rank_config, ncclCommInitRankConfig, 21400, \
       Status(Communicator* communicator, int ranks, UniqueId id, int rank, Config* config)) \
  call(comm_init_rank_scalable, ncclCommInitRankScalable, 22300, \
       Status(Communicator* communicator, int ranks, int rank, int ids, UniqueId* id, Config* config)) \
  call(comm_get_async_error, ncclCommGetAsyncError, 20400, Status(Communicator communicator, Status* status)) \
  call(comm_finalize, ncclCommFinalize, 21400, Status(Communicator communicator)) \
  call(comm_destroy, ncclCommDestroy, 20000, Status(Communicator communicator)) \
  call(comm_abort, ncclCommAbort, 20400, Status(Communicator communicator)) \
  call(comm_split, ncclCommSplit, 21800, \
       Status(Communicator communicator, int color, int key, Communicator* made, Config* config)) \
  call(comm_shrink, ncclCommShrink, 22700, \
       Status(Communicator communicator, int* excluded, int excluded_count, Communicator* made, Config* config, \
              int flags)) \
  call(comm_get_unique_id, ncclCommGetUniqueId, 22900, Status(Communicator communicator, UniqueId* id)) \
  call(comm_grow, ncclCommGrow, 22900, \
       Status(Communicator communicator, int ranks, const UniqueId* id, int rank, Communicator* made, \
              Config* config)) \
  call(comm_revoke, ncclCommRevoke, 22807, Status(Communicator communicator, int flags)) \
  call(comm_mem_stats, ncclCommMemStats, 22907, \
       Status(Communicator communicator, MemoryStat stat, std::uint64_t* value)) \
  /* memory */ \
  call(mem_alloc, ncclMemAlloc, 21900, Status(void** address, std::size_t bytes)) \
  call(mem_free, ncclMemFree, 21900, Status(void* address)) \
  call(comm_register, ncclCommRegister, 21900, \
       Status(Communicator communicator, void* address, std::size_t bytes, void** handle)) \
  call(comm_deregister, ncclCommDeregister, 21900, Status(Communicator communicator, void* handle)) \
  /* collectives */ \
  call(group_start, ncclGroupStart, 20000, Status()) \
  call(group_end, ncclGroupEnd, 20000, Status()) \
  call(all_reduce, ncclAllReduce, 20000, \
       Status(const void* from, void* to, std::size_t count, DataType type, ReduceOp op, Communicator communicator, \
              Stream stream)) \
  call(broadcast, ncclBroadcast, 20200, \
       Status(const void* from, void* to, std::size_t count, DataType type, int root, Communicator communicator, \
              Stream stream)) \
  call(reduce, ncclReduce, 20000, \
       Status(const void* from, void* to, std::size_t count, DataType type, ReduceOp op, int root, \
              Communicator communicator, Stream stream)) \
  call(all_gather, ncclAllGather, 20000, \
       Status(const void* from, void* to, std::size_t count_of_each, DataType type, Communicator communicator, \
              Stream stream)) \
  call(reduce_scatter, ncclReduceScatter, 20000, \
       Status(const void* from, void* to, std::size_t count_of_each, DataType type, ReduceOp op, \
              Communicator communicator, Stream stream)) \
  call(all_to_all, ncclAlltoAll, 22800, \
       Status(const void* from, void* to, std::size_t count_of_each, DataType type, Communicator communicator, \
              Stream stream)) \
  call(gather, ncclGather, 22800, \
       Status(const void* from, void* to, std::size_t count_of_each, DataType type, int root, \
              Communicator communicator, Stream stream)) \
  call(scatter, ncclScatter, 22800, \
       Status(const void* from, void* to, std::size_t count_of_each, DataType type, int root, \
              Communicator communicator, Stream stream)) \
  call(send, ncclSend, 20700, \
       Status(const void* from, std::size_t count, DataType type, int peer, Communicator communicator, \
              Stream stream)) \
  call(recv, ncclRecv, 20700, \
       Status(void* to, std::size_t count, DataType type, int peer, Communicator communicator, Stream stream)) \
  call(red_op_create_pre_mul_sum, ncclRedOpCreatePreMulSum, 21100, \
       Status(ReduceOp* op, void* scalar, DataType type, ScalarResidence residence, Communicator communicator)) \
  call(red_op_destroy, ncclRedOpDestroy, 21100, Status(ReduceOp op, Communicator communicator))
// clang-format on
