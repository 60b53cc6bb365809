// NCCL User Guide, "Communicator Creation and Management Functions": making communicators from unique ids.
#include <span>
#include <thread>

#include "call.hpp"

using namespace fake_nccl;

namespace {

void wait_while_stalled(std::uint64_t stamp, const Communicator& communicator) {
  while (stalls(stamp)) {
    require(!communicator.stopped(), ncclInternalError, "the init was aborted");
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

/// A communicator that isn't blocking is there at once, and in progress. One that is blocking is there when it is
/// ready; if that fails, nothing is left of it.
std::shared_ptr<Communicator> init(const char* name, ncclComm_t* made, int ranks, std::span<const ncclUniqueId> ids,
                                   int rank, const ncclConfig_t* config, ncclResult_t& result) {
  require_argument(made != nullptr, "comm argument is NULL");
  *made = nullptr;
  const auto device = current_device();
  const auto injected = inject(name, device.ordinal);
  if (rank == 0) show_version();
  require_argument(ranks > 0 && rank >= 0 && rank < ranks,
                   "Invalid rank requested : " + std::to_string(rank) + "/" + std::to_string(ranks));
  require_argument(!ids.empty() && ids.size() <= static_cast<std::size_t>(ranks), "Invalid number of unique ids");
  for (const auto& id : ids) require_unique_id(id);
  const auto communicator = Communicator::make(device, ranks, rank, parse_config(config));
  if (!communicator->blocking()) *made = communicator->handle();
  Job job;
  job.communicator = communicator;
  job.run = [communicator, stamp = injected.stalled_by, all = std::vector<ncclUniqueId>(ids.begin(), ids.end())] {
    wait_while_stalled(stamp, *communicator);
    const auto device_ordinal = communicator->device().ordinal;
    if (communicator->rank() == 0)
      for (std::size_t at = 1; at < all.size(); ++at) consume(all[at], device_ordinal);
    communicator->join(all.front(), [] { return false; });
  };
  job.after = [communicator, made](ncclResult_t code) {
    if (!communicator->blocking()) return;
    if (code == ncclSuccess) *made = communicator->handle();
    else communicator->abort();
  };
  result = submit(std::move(job));
  return communicator;
}

ncclResult_t init(const char* name, ncclComm_t* made, int ranks, std::span<const ncclUniqueId> ids, int rank,
                  const ncclConfig_t* config) {
  ncclResult_t result = ncclSuccess;
  init(name, made, ranks, ids, rank, config, result);
  return result;
}

/// The primary context of a device, current for a scope; the communicator keeps it.
std::shared_ptr<void> keep_primary_context(CUdevice device, CUcontext& context) {
  require_cuda(cuDevicePrimaryCtxRetain(&context, device), "cuDevicePrimaryCtxRetain");
  return {nullptr, [device](void*) { cuDevicePrimaryCtxRelease(device); }};
}

}  // namespace

extern "C" {

// "ncclGetUniqueId": to be called once for a communicator. Its process has to live until all ranks have come.
ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  return call([&] {
    require_argument(id != nullptr, "uniqueId argument is NULL");
    require_cuda(cuInit(0), "cuInit");
    inject("ncclGetUniqueId", device_of_thread());
    *id = make_unique_id();
    return ncclSuccess;
  });
}

// "ncclCommInitRank": rank must be between 0 and nranks-1, and unique; waits for the other ranks.
ncclResult_t ncclCommInitRank(ncclComm_t* made, int ranks, ncclUniqueId id, int rank) {
  return call([&] { return init("ncclCommInitRank", made, ranks, {&id, 1}, rank, nullptr); });
}

// "ncclCommInitRankConfig"
ncclResult_t ncclCommInitRankConfig(ncclComm_t* made, int ranks, ncclUniqueId id, int rank, ncclConfig_t* config) {
  return call([&] { return init("ncclCommInitRankConfig", made, ranks, {&id, 1}, rank, config); });
}

// "ncclCommInitRankScalable": all ranks give the same ids in the same order, at most one for each rank.
ncclResult_t ncclCommInitRankScalable(ncclComm_t* made, int ranks, int rank, int number, ncclUniqueId* ids,
                                      ncclConfig_t* config) {
  return call([&] {
    require_argument(ids != nullptr && number > 0, "commIds argument is NULL, or there are none");
    return init("ncclCommInitRankScalable", made, ranks, {ids, static_cast<std::size_t>(number)}, rank, config);
  });
}

// "ncclCommInitAll": one process with all ranks; without a list, the first devices. Only for blocking communicators.
ncclResult_t ncclCommInitAll(ncclComm_t* made, int number, const int* devices) {
  return call([&] {
    require_argument(made != nullptr && number > 0, "Invalid number of devices, or comm argument is NULL");
    ncclUniqueId id{};
    if (const auto code = ncclGetUniqueId(&id); code != ncclSuccess) return code;
    start_group();
    for (int rank = 0; rank < number; ++rank) {
      CUcontext primary = nullptr;
      const auto kept = keep_primary_context(devices != nullptr ? devices[rank] : rank, primary);
      const InContext context(primary);
      ncclResult_t result = ncclSuccess;
      init("ncclCommInitAll", made + rank, number, {&id, 1}, rank, nullptr, result)->kept = kept;
    }
    return end_group();
  });
}

}  // extern "C"
