#include "communicator.hpp"

#include <unistd.h>

#include <chrono>
#include <climits>
#include <cstring>

#include "version.hpp"

namespace fake_nccl {
namespace {

std::mutex known_mutex;

/// All communicators that ever were: a handle is never given twice, so that each use after the end is noticed.
std::map<ncclComm_t, std::shared_ptr<Communicator>>& known() {
  static auto& all = *new std::map<ncclComm_t, std::shared_ptr<Communicator>>();
  return all;
}

/// "ncclConfig_t": values that aren't set are the least int; others have these ranges.
void require_field(int& value, int least, int most, int usual, const char* name) {
  if (value == INT_MIN) value = usual;
  else require_argument(value >= least && value <= most, std::string("Invalid config ") + name);
}

}  // namespace

// NCCL copies as many bytes as `size` says, and knows by `version` which fields they have. A size that isn't the one of
// that version's header can only be a mistake, so it is refused here.
Config parse_config(const ncclConfig_t* given) {
  namespace nccl = musterd::gpu::nccl;
  Config config = nccl::make_config(library_version());
  if (given != nullptr) {
    Config head{};
    std::memcpy(&head, given, offsetof(Config, blocking));
    require_argument(head.magic == config.magic, "ncclConfig_t argument not initialized via NCCL_CONFIG_INITIALIZER");
    const auto version = static_cast<int>(head.version);
    require_argument(version <= library_version(), "ncclConfig_t is of a newer version than this library");
    require_argument(head.size == nccl::layout_of(version).size, "ncclConfig_t has another size than its version");
    std::memcpy(&config, given, nccl::layout_of(version).end);
  }
  constexpr int ctas_max = 64, cluster_max = 8;
  require_field(config.blocking, 0, 1, 1, "blocking");
  require_field(config.cga_cluster_size, 0, cluster_max, 0, "cgaClusterSize");
  require_field(config.min_ctas, 1, ctas_max, 1, "minCTAs");
  require_field(config.max_ctas, 1, ctas_max, ctas_max, "maxCTAs");
  require_argument(config.min_ctas <= config.max_ctas, "Invalid config minCTAs is above maxCTAs");
  require_field(config.split_share, 0, 1, 0, "splitShare");
  require_field(config.shrink_share, 0, 1, 0, "shrinkShare");
  return config;
}

Communicator::Communicator(const Device& device, int ranks, int rank, const Config& config)
    : worker(device.ordinal),
      device_(device),
      ranks_(ranks),
      rank_(rank),
      config_(config),
      name_(config.comm_name != nullptr ? config.comm_name : ""),
      counted_(std::make_unique<Counted>(device.ordinal, "communicators")) {
  config_.comm_name = config.comm_name != nullptr ? name_.c_str() : nullptr;
  config_.net_name = nullptr;
}

std::shared_ptr<Communicator> Communicator::make(const Device& device, int ranks, int rank, const Config& config) {
  auto made = std::make_shared<Communicator>(device, ranks, rank, config);
  const std::scoped_lock lock(known_mutex);
  known()[made->handle()] = made;
  return made;
}

std::shared_ptr<Communicator> Communicator::find(ncclComm_t handle) {
  require_argument(handle != nullptr, "comm argument is NULL");
  const std::scoped_lock lock(known_mutex);
  const auto found = known().find(handle);
  require_argument(found != known().end() && !found->second->gone, "corrupted comm object detected");
  return found->second;
}

ncclResult_t Communicator::state() {
  const std::scoped_lock lock(mutex_);
  if (state_ == ncclSuccess && mesh_ && deaths_are_noticed() && !stopped_ && !forgives_)
    for (int peer = 0; peer < ranks_; ++peer)
      if (mesh_->lost(peer)) {
        warn("rank " + std::to_string(rank_) + ": rank " + std::to_string(peer) + " has closed its connection");
        state_ = ncclRemoteError;
        break;
      }
  return state_;
}

void Communicator::set_state(ncclResult_t state) {
  const std::scoped_lock lock(mutex_);
  const bool failed = state_ != ncclSuccess && state_ != ncclInProgress;
  if (!failed) state_ = state;
  changed_.notify_all();
}

void Communicator::require_ready() {
  const auto now = state();
  require_argument(now != ncclInProgress,
                   "Attempt to use communicator before the previous operation returned ncclSuccess");
  require(now == ncclSuccess, now, "the communicator has an error");
}

void Communicator::join(const ncclUniqueId& id, const GiveUp& give_up) {
  auto joined = meet(id, ranks_, rank_, device_, [&] { return stopped() || give_up(); });
  {
    const std::scoped_lock lock(mutex_);
    members_ = std::move(joined.members);
    mesh_ = std::move(joined.mesh);
  }
  inform("comm " + std::to_string(reinterpret_cast<std::uintptr_t>(this)) + " rank " + std::to_string(rank_) +
         " nranks " + std::to_string(ranks_) + " cudaDev " + std::to_string(device_.ordinal) + " name " + name_ +
         " - Init COMPLETE");
}

// "Finalizing a communicator": everything that was called is done, and the other ranks that may use this one's
// resources are through, too. Those of this process need not be: one thread may finalize them one after the other.
void Communicator::finalize() {
  wait_for_work();
  for (int peer = 0; peer < ranks_; ++peer)
    if (peer != rank_) mesh_->post(peer, {Topic::bye, {}, {}});
  for (int peer = 0; peer < ranks_; ++peer) {
    const bool elsewhere = members_[static_cast<std::size_t>(peer)].pid != ::getpid();
    if (elsewhere) static_cast<void>(await(*mesh_, peer, Topic::bye, give_up()));
  }
}

// "ncclCommDestroy": finalizes, unless that was done.
void Communicator::destroy() {
  if (!finalized && !revoked) finalize();
  finalized = true;
  worker.end();
  if (mesh_) mesh_->close(revoked);
  release();
}

void Communicator::abort() {
  stop();
  worker.end();
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return running_ == 0; });
  }
  if (mesh_) mesh_->close(true);
  release();
}

void Communicator::abort_operations() {
  stop();
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return running_ == 0; });
  ++generation_;
  done_ = given_;
  stopped_ = false;
  forgives_ = true;
  state_ = ncclSuccess;
}

void Communicator::stop() {
  stopped_ = true;
  if (mesh_) mesh_->wake();
  const std::scoped_lock lock(mutex_);
  changed_.notify_all();
}

void Communicator::wait_for_work() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return done_ == given_ || stopped_; });
  require(!stopped_, ncclInternalError, "the communicator was aborted");
}

void Communicator::release() {
  gone = true;
  registered.clear();
  reduce_ops.clear();
  kept.reset();
  counted_.reset();
}

// "Management Of Multiple GPUs From One Thread": every call may have to block, waiting for other ranks to arrive. NCCL
// does so when it connects, which is at the first collective.
void Communicator::connect() {
  if (connected_) return;
  for (int peer = 0; peer < ranks_; ++peer)
    if (peer != rank_) mesh_->post(peer, {Topic::connect, {}, {}});
  for (int peer = 0; peer < ranks_; ++peer)
    if (peer != rank_) static_cast<void>(await(*mesh_, peer, Topic::connect, give_up()));
  connected_ = true;
}

Communicator::Turn Communicator::next_turn() {
  const std::scoped_lock lock(mutex_);
  return {++given_, generation_};
}

bool Communicator::begin(const Turn& turn, const GiveUp& give_up) {
  std::unique_lock lock(mutex_);
  const auto over = [&] { return stopped_ || turn.generation != generation_; };
  while (!over() && done_ + 1 < turn.number) {
    lock.unlock();
    const bool given_up = give_up();
    lock.lock();
    if (given_up) return false;
    changed_.wait_for(lock, std::chrono::milliseconds(2));
  }
  if (over()) return false;
  ++running_;
  return true;
}

void Communicator::end(const Turn& turn) {
  const std::scoped_lock lock(mutex_);
  --running_;
  done_ = turn.number;
  changed_.notify_all();
}

}  // namespace fake_nccl
