// NCCL User Guide, "Communicator Creation and Management Functions": how communicators end, and what they tell.
#include "call.hpp"

using namespace fake_nccl;

namespace {

std::shared_ptr<Communicator> found(const char* name, ncclComm_t handle) {
  const auto communicator = Communicator::find(handle);
  inject(name, communicator->device().ordinal);
  return communicator;
}

}  // namespace

extern "C" {

// "ncclCommFinalize": everything that was called is done, on all ranks. Only once, and not after a revoke.
ncclResult_t ncclCommFinalize(ncclComm_t handle) {
  return call([&] {
    const auto communicator = found("ncclCommFinalize", handle);
    communicator->require_ready();
    require_argument(!communicator->finalized && !communicator->revoked, "the communicator was finalized or revoked");
    communicator->finalized = true;
    return submit(Job{communicator, [communicator] { communicator->finalize(); }, nullptr, false});
  });
}

// "ncclCommDestroy": finalizes, unless that was done, and may block. "If ncclCommFinalize is called, users should
// guarantee that the state becomes ncclSuccess before". A null handle is nothing to destroy.
ncclResult_t ncclCommDestroy(ncclComm_t handle) {
  return call([&] {
    if (handle == nullptr) return ncclSuccess;
    const auto communicator = found("ncclCommDestroy", handle);
    communicator->require_ready();
    return submit(Job{communicator, [communicator] { communicator->destroy(); }, nullptr, true});
  });
}

// "ncclCommAbort": works in every state, and from another thread than that of a call that hangs. Ops that run give up;
// streams go on. It isn't held back by a group.
ncclResult_t ncclCommAbort(ncclComm_t handle) {
  return call([&] {
    if (handle == nullptr) return ncclSuccess;
    found("ncclCommAbort", handle)->abort();
    return ncclSuccess;
  });
}

// "ncclCommRevoke": stops what runs; then only new communicators may be made, and this one be destroyed.
ncclResult_t ncclCommRevoke(ncclComm_t handle, int flags) {
  return call([&] {
    if (handle == nullptr) return ncclSuccess;
    const auto communicator = found("ncclCommRevoke", handle);
    require_argument(flags == NCCL_REVOKE_DEFAULT, "revokeFlags must be NCCL_REVOKE_DEFAULT");
    require_argument(!communicator->finalized && !communicator->revoked, "the communicator was finalized or revoked");
    communicator->revoked = true;
    communicator->stop();
    return submit(Job{communicator, [communicator] { communicator->abort_operations(); }, nullptr, false});
  });
}

// "ncclCommGetAsyncError": the one call that is allowed while another is in progress.
ncclResult_t ncclCommGetAsyncError(ncclComm_t handle, ncclResult_t* error) {
  return call([&] {
    const auto communicator = found("ncclCommGetAsyncError", handle);
    require_argument(error != nullptr, "asyncError argument is NULL");
    *error = communicator->state();
    return ncclSuccess;
  });
}

// "ncclCommCount"
ncclResult_t ncclCommCount(ncclComm_t handle, int* count) {
  return call([&] {
    const auto communicator = found("ncclCommCount", handle);
    require_argument(count != nullptr, "count argument is NULL");
    communicator->require_ready();
    *count = communicator->ranks();
    return ncclSuccess;
  });
}

// "ncclCommCuDevice"
ncclResult_t ncclCommCuDevice(ncclComm_t handle, int* device) {
  return call([&] {
    const auto communicator = found("ncclCommCuDevice", handle);
    require_argument(device != nullptr, "device argument is NULL");
    communicator->require_ready();
    *device = communicator->device().ordinal;
    return ncclSuccess;
  });
}

// "ncclCommUserRank"
ncclResult_t ncclCommUserRank(ncclComm_t handle, int* rank) {
  return call([&] {
    const auto communicator = found("ncclCommUserRank", handle);
    require_argument(rank != nullptr, "rank argument is NULL");
    communicator->require_ready();
    *rank = communicator->rank();
    return ncclSuccess;
  });
}

// "ncclCommMemStat_t". Communicators have no memory of the device here. They say that they have a MiB for each other
// rank, which can't be suspended.
ncclResult_t ncclCommMemStats(ncclComm_t handle, ncclCommMemStat_t stat, uint64_t* value) {
  return call([&] {
    const auto communicator = found("ncclCommMemStats", handle);
    communicator->require_ready();
    require_argument(value != nullptr && stat >= ncclStatGpuMemSuspend && stat <= ncclStatGpuMemTotal,
                     "Invalid stat, or value argument is NULL");
    const bool has_any = stat == ncclStatGpuMemPersist || stat == ncclStatGpuMemTotal;
    *value = has_any ? static_cast<uint64_t>(communicator->ranks() - 1) << 20 : 0;
    return ncclSuccess;
  });
}

}  // extern "C"
