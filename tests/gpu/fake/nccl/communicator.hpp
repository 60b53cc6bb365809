// A communicator: its ranks, its state, and what is under way in it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>

#include "gpu/nccl_config.hpp"
#include "meeting.hpp"
#include "worker.hpp"

namespace fake_nccl {

using Config = musterd::gpu::nccl::Config;

/// Checks a configuration as this version of NCCL does, and fills in the defaults. Null means all defaults.
Config parse_config(const ncclConfig_t* given);

/// An op by ncclRedOpCreatePreMulSum.
struct PreMultiplied {
  ncclDataType_t type;
  Bytes scalar;                   // of ncclScalarHostImmediate
  const void* address = nullptr;  // of ncclScalarDevice
  std::shared_ptr<Counted> counted;
};

class Communicator : public std::enable_shared_from_this<Communicator> {
 public:
  Communicator(const Device& device, int ranks, int rank, const Config& config);

  /// Takes a handle. Throws ncclInvalidArgument if it is null, or of a communicator that is gone.
  static std::shared_ptr<Communicator> find(ncclComm_t handle);
  static std::shared_ptr<Communicator> make(const Device& device, int ranks, int rank, const Config& config);
  [[nodiscard]] ncclComm_t handle() { return reinterpret_cast<ncclComm_t>(this); }

  [[nodiscard]] int rank() const { return rank_; }
  [[nodiscard]] int ranks() const { return ranks_; }
  [[nodiscard]] const Device& device() const { return device_; }
  [[nodiscard]] const Config& config() const { return config_; }
  [[nodiscard]] bool blocking() const { return config_.blocking != 0; }
  [[nodiscard]] Mesh& mesh() { return *mesh_; }

  /// What ncclCommGetAsyncError says.
  [[nodiscard]] ncclResult_t state();
  void set_state(ncclResult_t state);
  /// Throws if the communicator has an error, or if the call before hasn't ended: then ncclInvalidArgument.
  void require_ready();
  /// Whether everything must end that waits for other ranks.
  [[nodiscard]] bool stopped() const { return stopped_; }
  [[nodiscard]] GiveUp give_up() {
    return [this] { return stopped(); };
  }

  // What jobs do, on whatever thread.
  void join(const ncclUniqueId& id, const GiveUp& give_up);
  void finalize();
  void destroy();
  void abort();
  /// Lets everything give up that waits for other ranks.
  void stop();
  /// Ends what runs, and forgets its errors, so that the ranks that are left can make another communicator.
  void abort_operations();
  /// The first collective waits on the host for all ranks.
  void connect();

  // What runs in streams. Work of one communicator runs in the order in which it was called.
  struct Turn {
    std::uint64_t number = 0;
    int generation = 0;
  };
  Turn next_turn();
  /// Waits for the turn. False if the work must not run any more; then it doesn't end either.
  bool begin(const Turn& turn, const GiveUp& give_up);
  void end(const Turn& turn);
  std::uint64_t next_collective() { return ++collectives_; }

  bool finalized = false;
  std::atomic<bool> revoked = false;
  std::atomic<bool> gone = false;
  std::optional<ncclUniqueId> grow_id;  // of ncclCommGetUniqueId, until the grow
  std::map<void*, std::shared_ptr<Counted>> registered;
  std::map<int, PreMultiplied> reduce_ops;
  std::shared_ptr<void> kept;  // what ends with the communicator
  Worker worker;

 private:
  void wait_for_work();
  void release();

  Device device_;
  int ranks_;
  int rank_;
  Config config_;
  std::string name_;  // commName, as the caller's text may go
  std::vector<Member> members_;
  std::unique_ptr<Mesh> mesh_;
  std::unique_ptr<Counted> counted_;
  std::mutex mutex_;
  std::condition_variable changed_;
  ncclResult_t state_ = ncclSuccess;
  std::atomic<bool> stopped_ = false;
  bool forgives_ = false;  // ranks that are gone are no error of the communicator any more
  bool connected_ = false;
  std::uint64_t given_ = 0;  // turns
  std::uint64_t done_ = 0;   // the last turn whose work has ended
  int generation_ = 0;       // work of an older one doesn't run
  int running_ = 0;
  std::uint64_t collectives_ = 0;
};

}  // namespace fake_nccl
