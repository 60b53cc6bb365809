// NCCL User Guide, "Collective Communication Functions", "Point To Point Communication Functions", "Group Calls".
#include "call.hpp"

using namespace fake_nccl;

namespace {

void check_reduce_op(Communicator& communicator, Operation& operation) {
  const bool built_in = operation.op >= ncclSum && operation.op < ncclNumOps;
  if (built_in) return;
  const auto found = communicator.reduce_ops.find(operation.op);
  require_argument(found != communicator.reduce_ops.end(), "Invalid reduction operation");
  require_argument(found->second.type == operation.type, "the reduction operation is for another data type");
  operation.factor = found->second;
  operation.factor->counted.reset();
  operation.op = ncclSum;
}

// Float8 came with NCCL 2.24; what an older library takes for no type is none here.
void check(Communicator& communicator, Operation& operation) {
  static_cast<void>(bytes_of(operation.type));
  require_argument(operation.root >= 0 && operation.root < communicator.ranks(), "Invalid root or peer");
  if (operation.reduces()) check_reduce_op(communicator, operation);
  const bool in_place = operation.kind == Kind::all_to_all && operation.from == operation.to;
  require_argument(!in_place, "ncclAlltoAll can't work in place");
  require(!communicator.finalized && !communicator.revoked, ncclInvalidUsage,
          "the communicator was finalized or revoked");
}

ncclResult_t communicate(const char* name, ncclComm_t handle, Operation operation) {
  return call([&] {
    const auto communicator = Communicator::find(handle);
    operation.injected = inject(name, communicator->device().ordinal);
    communicator->require_ready();
    check(*communicator, operation);
    // "Empty collectives can be discarded": NCCL does so, on every rank by itself.
    if (operation.count == 0 && operation.collective()) return ncclSuccess;
    return submit(communicator, std::move(operation));
  });
}

Operation operation_of(Kind kind, const void* from, void* to, std::size_t count, ncclDataType_t type, int root,
                       cudaStream_t stream) {
  Operation operation;
  operation.kind = kind;
  operation.from = from;
  operation.to = to;
  operation.count = count;
  operation.type = type;
  operation.root = root;
  operation.stream = reinterpret_cast<CUstream>(stream);
  return operation;
}

Operation reduction_of(Kind kind, const void* from, void* to, std::size_t count, ncclDataType_t type, ncclRedOp_t op,
                       int root, cudaStream_t stream) {
  auto operation = operation_of(kind, from, to, count, type, root, stream);
  operation.op = op;
  return operation;
}

}  // namespace

extern "C" {

// "ncclAllReduce": in place if both buffers are one.
ncclResult_t ncclAllReduce(const void* from, void* to, size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream) {
  return communicate("ncclAllReduce", comm, reduction_of(Kind::all_reduce, from, to, count, type, op, 0, stream));
}

// "ncclBroadcast": sendbuff is only used on the root.
ncclResult_t ncclBroadcast(const void* from, void* to, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                           cudaStream_t stream) {
  return communicate("ncclBroadcast", comm, operation_of(Kind::broadcast, from, to, count, type, root, stream));
}

// "ncclReduce": recvbuff is only used on the root.
ncclResult_t ncclReduce(const void* from, void* to, size_t count, ncclDataType_t type, ncclRedOp_t op, int root,
                        ncclComm_t comm, cudaStream_t stream) {
  return communicate("ncclReduce", comm, reduction_of(Kind::reduce, from, to, count, type, op, root, stream));
}

// "ncclAllGather": in place if sendbuff == recvbuff + rank * sendcount.
ncclResult_t ncclAllGather(const void* from, void* to, size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
  return communicate("ncclAllGather", comm, operation_of(Kind::all_gather, from, to, count, type, 0, stream));
}

// "ncclReduceScatter": in place if recvbuff == sendbuff + rank * recvcount.
ncclResult_t ncclReduceScatter(const void* from, void* to, size_t count, ncclDataType_t type, ncclRedOp_t op,
                               ncclComm_t comm, cudaStream_t stream) {
  return communicate("ncclReduceScatter", comm,
                     reduction_of(Kind::reduce_scatter, from, to, count, type, op, 0, stream));
}

// "ncclAlltoAll": not in place.
ncclResult_t ncclAlltoAll(const void* from, void* to, size_t count, ncclDataType_t type, ncclComm_t comm,
                          cudaStream_t stream) {
  return communicate("ncclAlltoAll", comm, operation_of(Kind::all_to_all, from, to, count, type, 0, stream));
}

// "ncclGather": in place if sendbuff == recvbuff + root * count; recvbuff is only used on the root.
ncclResult_t ncclGather(const void* from, void* to, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                        cudaStream_t stream) {
  return communicate("ncclGather", comm, operation_of(Kind::gather, from, to, count, type, root, stream));
}

// "ncclScatter": in place if recvbuff == sendbuff + root * count; sendbuff is only used on the root.
ncclResult_t ncclScatter(const void* from, void* to, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                         cudaStream_t stream) {
  return communicate("ncclScatter", comm, operation_of(Kind::scatter, from, to, count, type, root, stream));
}

// "ncclSend": blocks the stream until the peer receives.
ncclResult_t ncclSend(const void* from, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return communicate("ncclSend", comm, operation_of(Kind::send, from, nullptr, count, type, peer, stream));
}

// "ncclRecv"
ncclResult_t ncclRecv(void* to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
  return communicate("ncclRecv", comm, operation_of(Kind::recv, nullptr, to, count, type, peer, stream));
}

// "Group Calls"
ncclResult_t ncclGroupStart() {
  return call([] {
    inject("ncclGroupStart", device_of_thread());
    start_group();
    return ncclSuccess;
  });
}

ncclResult_t ncclGroupEnd() {
  return call([] {
    inject("ncclGroupEnd", device_of_thread());
    return end_group();
  });
}

}  // extern "C"
