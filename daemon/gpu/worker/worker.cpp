#include "gpu/worker/worker.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <memory>
#include <utility>

#include <fmt/format.h>

#include <muster/ipc/socket.hpp>

#include "gpu/cuda.hpp"
#include "gpu/nccl_environment.hpp"
#include "gpu/worker/jobs.hpp"
#include "gpu/worker/nccl_thread.hpp"
#include "gpu/worker/segments.hpp"
#include "gpu/worker_frames.hpp"

namespace musterd::gpu {

using cuda::Status;
using muster::Code;
using muster::Error;
using muster::Result;
namespace ipc = muster::ipc;
using std::chrono::steady_clock;

namespace {

/// The socket to the daemon. When that is gone, so is this process. Any thread may send.
class DaemonSocket {
 public:
  explicit DaemonSocket(int fd) : socket_(fd) { ::fcntl(fd, F_SETFL, O_NONBLOCK); }

  void send(const WorkerFrame& frame, const ipc::Fd& fd = {}) {
    const int number = fd.get();
    while (true) {
      const auto sent = ipc::send_packet(socket_, frame, {&number, fd ? 1U : 0U});
      if (!sent) ::_exit(0);
      if (*sent) return;
      wait(POLLOUT, -1);
    }
  }
  void tell(const Error& why) {
    send(worker_frame(wire::Body_Unable, [&](auto& fbb) { return wire::CreateUnable(fbb, add_why(fbb, why)); }));
  }
  /// False if nothing has come.
  [[nodiscard]] bool receive(ipc::Packet& packet) {
    const auto received = ipc::receive_bytes(socket_, packet);
    if (!received || *received == ipc::Received::closed) ::_exit(0);
    return *received == ipc::Received::packet;
  }
  void wait(short what, int timeout_ms, const ipc::Fd& other = {}) const {
    std::array<pollfd, 2> watched{pollfd{socket_.get(), what, 0}, pollfd{other.get(), POLLIN, 0}};
    static_cast<void>(::poll(watched.data(), other ? 2 : 1, timeout_ms));
  }

 private:
  ipc::Fd socket_;
};

class Worker {
 public:
  Worker(DaemonSocket& daemon, const cuda::Driver& driver, cuda::Device device, NcclPlaces nccl, ipc::Fd wake)
      : daemon_(daemon),
        wake_(std::move(wake)),
        segments_(driver, device),
        nccl_(
            driver, device, std::move(nccl),
            {.say = [this](const WorkerFrame& frame) { daemon_.send(frame); }, .wake = [this] { ipc::signal(wake_); }}),
        jobs_(driver, device, segments_, nccl_, [this](auto job, auto& outcome) { ended(job, outcome); }) {}

  /// Serves until the context is lost.
  [[nodiscard]] Error serve() {
    if (auto opened = jobs_.open(); !opened) return opened.error();
    for (;;) {
      bool any = false;
      for (ipc::Packet packet; daemon_.receive(packet); any = true)
        if (auto handled = handle(packet); !handled) return handled.error();
      for (const auto& end : nccl_.take_ended()) jobs_.exchanged(end);
      jobs_.poll();
      for (const auto& lost : {jobs_.lost(), segments_.lost(), nccl_.lost()})
        if (lost) return *lost;
      if (!any) wait();
    }
  }

 private:
  /// While jobs run, somebody waits for them: this looks again and again for a while, and then in short naps.
  void wait() {
    constexpr auto busy_for = std::chrono::milliseconds(2);
    if (!jobs_.busy()) {
      daemon_.wait(POLLIN, -1, wake_);
      last_idle_ = steady_clock::now();
    } else if (steady_clock::now() - last_idle_ > busy_for) {
      daemon_.wait(POLLIN, 1, wake_);
    }
    ipc::drain(wake_);
  }

  [[nodiscard]] Result<void> handle(const ipc::Packet& packet) {
    const auto* frame = read_worker_frame(packet.bytes);
    if (!frame) return Error(Code::failed, "the daemon sent a frame that makes no sense");
    if (const auto* make = frame->body_as_Make()) return made(*make);
    if (const auto* adopt = frame->body_as_Adopt()) return adopted(*adopt, packet);
    if (const auto* open = frame->body_as_Open()) return opened(*open);
    if (const auto* drop = frame->body_as_Drop()) dropped(*drop);
    else if (const auto* job = frame->body_as_Job()) jobs_.add(*job);
    else if (handle_communicator(*frame)) return {};
    // Work that was enqueued can't be taken back; the job ends by itself.
    else if (!frame->body_as_Cancel())
      return Error(Code::failed,
                   fmt::format("the daemon sent a frame of the unknown type {}", static_cast<int>(frame->body_type())));
    return {};
  }

  /// False if the frame is about something else.
  [[nodiscard]] bool handle_communicator(const wire::Frame& frame) {
    if (const auto* name = frame.body_as_Name()) {
      nccl_.name(name->communicator());
    } else if (const auto* join = frame.body_as_Join()) {
      nccl_.join(join->communicator(), join->ranks(), join->rank(), {join->id()->data(), join->id()->size()});
    } else if (const auto* leave = frame.body_as_Leave()) {
      if (leave->abort()) nccl_.abort(leave->communicator());
      else nccl_.leave(leave->communicator());
    } else {
      return false;
    }
    return true;
  }

  Result<void> made(const wire::Make& asked) {
    const auto fd = segments_.make({asked.segment()}, asked.bytes());
    if (!fd) return not_made(asked.segment(), fd.error());
    daemon_.send(worker_frame(wire::Body_Made, [&](auto& fbb) { return wire::CreateMade(fbb, asked.segment()); }), *fd);
    return {};
  }

  Result<void> adopted(const wire::Adopt& asked, const ipc::Packet& packet) {
    if (packet.fds.size() != 1) return Error(Code::failed, "the daemon sent no descriptor of a segment");
    auto adopted = segments_.adopt({asked.segment()}, asked.bytes(), packet.fds.front());
    return adopted ? Result<void>() : not_made(asked.segment(), adopted.error());
  }

  Result<void> opened(const wire::Open& asked) {
    const auto opened = segments_.open({asked.segment()}, ipc::in_place_as<ipc::InPlaceMemory>(*asked.memory()));
    if (!opened) return not_made(asked.segment(), opened.error());
    daemon_.send(worker_frame(wire::Body_Made, [&](auto& fbb) { return wire::CreateMade(fbb, asked.segment()); }));
    return {};
  }

  void dropped(const wire::Drop& asked) {
    segments_.drop({asked.segment()});
    if (!asked.tell()) return;
    daemon_.send(
        worker_frame(wire::Body_Dropped, [&](auto& fbb) { return wire::CreateDropped(fbb, asked.segment()); }));
  }

  Result<void> not_made(std::uint32_t segment, const Error& why) {
    daemon_.send(worker_frame(wire::Body_NotMade, [&](auto& fbb) {
      const auto told = add_why(fbb, why);
      return wire::CreateNotMade(fbb, segment, told);
    }));
    return {};
  }

  void ended(std::uint64_t job, const Result<void>& outcome) {
    daemon_.send(worker_frame(wire::Body_Ended, [&](auto& fbb) {
      const auto why = outcome ? flatbuffers::Offset<wire::Why>() : add_why(fbb, outcome.error());
      return wire::CreateEnded(fbb, job, why);
    }));
  }

  DaemonSocket& daemon_;
  ipc::Fd wake_;  ///< an eventfd, by which the thread of NCCL wakes this one
  DeviceSegments segments_;
  NcclThread nccl_;
  Jobs jobs_;
  steady_clock::time_point last_idle_ = steady_clock::now();
};

Error failed(const cuda::Driver& driver, const char* call, Status status) {
  return {Code::failed, fmt::format("{} failed: {}", call, driver.describe(status)),
          "see what `nvidia-smi` says of the GPU: in exclusive-process mode only one process may use it"};
}

/// Makes this process's context on the device, and tells the daemon.
Result<void> begin(DaemonSocket& daemon, const cuda::Driver& driver, const WorkerOptions& options,
                   cuda::Device& device) {
  if (const Status status = driver.init(0); status != Status::success) return init_error(driver, status);
  if (const Status status = driver.device_get(&device, options.device); status != Status::success)
    return failed(driver, "cuDeviceGet", status);
  cuda::Uuid uuid{};
  if (const Status status = driver.device_get_uuid(&uuid, device); status != Status::success)
    return failed(driver, "cuDeviceGetUuid", status);
  // If a GPU has gone, the numbers of the others may have changed.
  if (!options.uuid.empty() && cuda::text_of(uuid) != options.uuid)
    return Error(Code::failed,
                 fmt::format("GPU {} is {} now, and was {}", options.device, cuda::text_of(uuid), options.uuid),
                 "see whether `nvidia-smi -L` lists the GPU, and start the daemon again");
  // Waits sleep instead of spinning. A context that is there already keeps its own flags.
  driver.device_primary_ctx_set_flags(device, cuda::context_blocking_sync);
  cuda::Context context = nullptr;
  if (const Status status = driver.device_primary_ctx_retain(&context, device); status != Status::success)
    return failed(driver, "cuDevicePrimaryCtxRetain", status);
  if (const Status status = driver.ctx_set_current(context); status != Status::success)
    return failed(driver, "cuCtxSetCurrent", status);
  std::array<char, 256> name{};
  driver.device_get_name(name.data(), static_cast<int>(name.size()) - 1, device);
  std::size_t bytes = 0;
  driver.device_total_mem(&bytes, device);
  daemon.send(
      worker_frame(wire::Body_Ready, [&](auto& fbb) { return wire::CreateReadyDirect(fbb, name.data(), bytes); }));
  return {};
}

}  // namespace

int run_worker(const WorkerOptions& options) {
  // Without its daemon nobody would end a worker that hangs in a call.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  // Other processes of this user must not take its descriptors, as in the daemon.
  ::prctl(PR_SET_DUMPABLE, 0);
  DaemonSocket daemon(worker_socket_fd);
  const auto [search, driver] = open_driver(driver_candidates());
  if (!driver) {
    daemon.tell(*driver_error(search));
    return 1;
  }
  set_nccl_variables();
  auto wake = ipc::create_eventfd();
  if (!wake) {
    daemon.tell(wake.error());
    return 1;
  }
  cuda::Device device = 0;
  if (auto begun = begin(daemon, *driver, options, device); !begun) {
    daemon.tell(begun.error());
    return 1;
  }
  const auto worker = std::make_unique<Worker>(daemon, *driver, device, options.nccl, std::move(*wake));
  daemon.tell(worker->serve());
  // Destructors would call a driver that fails every call now, and NCCL may hang.
  ::_exit(1);
}

}  // namespace musterd::gpu
