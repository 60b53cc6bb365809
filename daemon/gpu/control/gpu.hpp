// One GPU as the control thread sees it: memory for segments, and a lane. Both are done by a worker process, which is
// started when it is first needed, watched, and replaced when it dies. Pure: the worker is behind WorkerPort, and time
// comes with the events.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <muster/device.hpp>
#include <muster/ipc/fd.hpp>
#include <muster/result.hpp>

#include "base/errand.hpp"
#include "base/time.hpp"
#include "collective/lane.hpp"
#include "gpu/control/device_memory.hpp"
#include "gpu/control/job_frames.hpp"
#include "gpu/control/worker_port.hpp"
#include "memory/backing.hpp"

namespace musterd::gpu {

struct GpuSettings {
  muster::Device device = muster::Device::cuda(0);
  SegmentBacking::Limits limits;                       ///< as the driver told the probe
  Duration answer_timeout = std::chrono::seconds(60);  ///< for a start, and for memory; a first context takes seconds
  Duration quiet_timeout = std::chrono::seconds(5);    ///< for a job that was cancelled
  Duration pause_min = std::chrono::seconds(1);        ///< before another worker is started in place of one that failed
  Duration pause_max = std::chrono::minutes(1);
  /// Of frames that wait for a busy worker. A user for whom half of what others leave waits can begin nothing new.
  std::size_t waiting_bytes_max = 16 << 20;
};

class Gpu;

/// Hears what workers say of communicators. What throws ends the worker, as nobody has heard it.
class CommunicatorEvents {
 public:
  CommunicatorEvents() = default;
  CommunicatorEvents(const CommunicatorEvents&) = delete;
  CommunicatorEvents& operator=(const CommunicatorEvents&) = delete;
  virtual ~CommunicatorEvents() = default;

  virtual void named(const Gpu& gpu, CommunicatorId communicator, std::span<const std::uint8_t> unique_id) = 0;
  virtual void joined(const Gpu& gpu, CommunicatorId communicator) = 0;
  virtual void broken(const Gpu& gpu, CommunicatorId communicator, const muster::Error& why) = 0;
  virtual void left(const Gpu& gpu, CommunicatorId communicator) = 0;
  /// The worker's process is gone, and all its communicators with it.
  virtual void worker_gone(const Gpu& gpu, const muster::Error& why) noexcept = 0;
};

class Gpu final : public SegmentBacking, public Lane {
 public:
  /// `post` runs an errand on the control thread as an event of its own. Any thread may call it. The port must outlive
  /// this; `post` and the memory that was made may outlive it, too.
  Gpu(GpuSettings settings, WorkerPort& port, DeviceMemory::Post post);
  ~Gpu() override;

  [[nodiscard]] muster::Device device() const { return settings_.device; }

  // SegmentBacking
  [[nodiscard]] Limits limits() const noexcept override { return settings_.limits; }
  [[nodiscard]] muster::Result<SegmentMemoryPtr> create(const SegmentSpec& spec) override;
  /// What NCCL says that it has taken for communicators.
  [[nodiscard]] std::uint64_t work_bytes() const noexcept override;
  // Lane
  [[nodiscard]] std::optional<Duration> run_at_once(const Job& job) override;
  void start(Job job, TimePoint deadline) override;
  void cancel(JobId job) noexcept override;
  /// QuotaExceeded while so much of the user waits for the worker that nothing new may begin.
  [[nodiscard]] muster::Result<void> need_room(UserId user) const;

  // Work over several GPUs: see gpus_lane.hpp.
  void listen(CommunicatorEvents& events) { events_ = &events; }
  /// A part of a job over several GPUs.
  void start_part(Job part, CommunicatorSeat seat);
  /// The worker makes the communicator's unique id. An error if there can be no worker now.
  [[nodiscard]] muster::Result<void> name_communicator(CommunicatorId communicator);
  [[nodiscard]] muster::Result<void> join(CommunicatorSeat seat, std::uint32_t ranks,
                                          std::span<const std::uint8_t> unique_id);
  enum class Leaving : std::uint8_t {
    in_order,  ///< nothing is under way in it, on any GPU
    abort,     ///< it may be broken; jobs that use it fail
  };
  /// True if left() or the end of the worker follows; false if there is no worker.
  [[nodiscard]] bool leave(CommunicatorId communicator, Leaving how) noexcept;
  /// Ends the worker, which does not do what it should. Another takes its place.
  void replace_worker(muster::Error why) { fail_worker(std::move(why)); }

  /// What the worker said. A frame that makes no sense ends the worker.
  void received(std::span<const std::byte> frame, std::vector<muster::ipc::Fd> fds, TimePoint now);
  /// The worker's process is gone: nothing of its work can touch memory any more. If this throws, for lack of memory,
  /// it has changed nothing.
  void worker_ended(const std::string& how, TimePoint now);
  void tick(TimePoint now);
  [[nodiscard]] std::optional<TimePoint> next_deadline() const;

  enum class State : std::uint8_t {
    none,      ///< there is no worker, as nobody needs one
    starting,  ///< it has not said yet that it is ready
    ready,
    ending,   ///< it was killed, and its process is not gone yet
    pausing,  ///< the last one failed; another is started later
  };
  [[nodiscard]] State state() const { return state_; }
  /// Why the last worker ended; nothing if none has.
  [[nodiscard]] const std::optional<muster::Error>& why_ended() const { return why_ended_; }
  [[nodiscard]] std::size_t segments() const { return allocations_.size(); }
  [[nodiscard]] std::size_t jobs() const { return jobs_.size(); }

 private:
  struct Cancelled {
    JobId job = 0;
    std::optional<TimePoint> until;  ///< set by the next tick
  };
  struct Running {
    std::function<void(JobEnd end)> ended;
    std::list<Cancelled> watch;  ///< one, until the job is cancelled: to cancel takes no memory
    std::optional<std::list<Cancelled>::iterator> cancelled;
  };

  [[nodiscard]] muster::Result<void> need_worker();
  template <class MakeBody>
  void say(wire::Body type, const MakeBody& make_body, SharedFd fd = nullptr, std::optional<UserId> user = {});
  void drop(SegmentId segment, const std::shared_ptr<DeviceAllocation>& ended);
  void made(SegmentId segment, muster::Result<muster::ipc::Fd> made);
  static void made_again(DeviceAllocation& allocation, const muster::Result<muster::ipc::Fd>& made);
  void finish(DeviceAllocation& allocation, muster::Result<muster::ipc::Fd> made);
  void begin(const std::vector<WorkerFrame>& frames, Job job);
  [[nodiscard]] bool heard_of_communicator(const wire::Frame& frame);
  void job_ended(JobId id, muster::Result<void> outcome);
  void fail_worker(muster::Error why);
  void end_worker() noexcept;
  /// An outcome for each who waits for memory. It is made before anything changes, so that to tell takes no memory.
  using Outcomes = std::vector<muster::Result<void>>;
  static void tell(DeviceAllocation& allocation, Outcomes outcomes);
  /// Memory that is lost, why, and the same for those who wait for it.
  struct LostOne {
    std::shared_ptr<DeviceAllocation> allocation;
    muster::Error reason;
    Outcomes outcomes;
  };
  using Lost = std::vector<LostOne>;
  [[nodiscard]] Lost lose_coming(const muster::Error& why);
  static void tell(Lost lost);
  [[nodiscard]] muster::Error as_told(const muster::Error& why) const;
  [[nodiscard]] std::optional<TimePoint> quiet_until() const;
  using Closing = std::list<DeviceAllocation::Closing>;
  void dropped(SegmentId segment);
  static void tell(Closing closed);
  void say_make(const DeviceAllocation& allocation, std::optional<UserId> user);
  [[nodiscard]] bool awaits_answer() const { return state_ == State::starting || making_ > 0 || !closing_.empty(); }
  [[nodiscard]] muster::Error unusable() const;

  GpuSettings settings_;
  WorkerPort& port_;
  DeviceMemory::Post post_;
  CommunicatorEvents* events_ = nullptr;
  std::map<CommunicatorId, std::uint64_t> taken_bytes_;  ///< by NCCL, of the GPU's memory
  /// Errands that come after the end of this do nothing.
  std::shared_ptr<Gpu*> self_ = std::make_shared<Gpu*>(this);
  State state_ = State::none;
  std::map<SegmentId, std::shared_ptr<DeviceAllocation>> allocations_;
  std::size_t making_ = 0;  ///< allocations that are neither made nor lost
  Closing closing_;         ///< of what was left in place and has ended, until the worker has closed it
  std::map<JobId, Running> jobs_;
  std::list<Cancelled> cancelled_;  ///< jobs that have not ended yet, the first one first
  std::optional<TimePoint> answer_until_;
  std::optional<TimePoint> pause_until_;
  Duration pause_{};     ///< 0: the last worker that failed had been of use
  bool useful_ = false;  ///< this worker has made memory or done a job
  std::optional<muster::Error> why_ended_;
};

}  // namespace musterd::gpu
