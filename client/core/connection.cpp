// Opens and ends a connection, and manages the memory that the daemon gives it.
#include "connection.hpp"

#include <sys/mman.h>

#include <cerrno>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include <muster/ipc/byte_count.hpp>
#include <muster/ipc/place.hpp>
#include <muster/ipc/text.hpp>
#include <muster/ipc/failpoint.hpp>

#include "base/bounded_time.hpp"
#include "base/interrupted.hpp"
#include "fork.hpp"
#include "requests.hpp"
#include "base/scratch.hpp"
#include "start_daemon.hpp"

namespace muster::detail {

namespace wire = ipc::wire;
using std::chrono::steady_clock;

namespace {

/// For requests that the daemon answers at once, however busy it is.
constexpr auto answer_timeout = std::chrono::seconds(10);
/// A process keeps this share of the budget: free for its next arrays, and mapped of what it no longer reads.
constexpr std::uint64_t kept_share = 8;
/// It pins at most this share.
constexpr std::uint64_t pinned_share = 4;

}  // namespace

struct Connection::Start {
  Welcome welcome;
  ipc::Fd socket;
  Channel channel;
};

Connection::Connection(Start start)
    : welcome_(std::move(start.welcome)),
      names_(welcome_.client, protocol_.mutex()),
      channel_(std::move(start.channel)),
      exchange_(std::move(start.socket)),
      submissions_(channel_, protocol_),
      completions_(channel_),
      receiving_(protocol_.mutex()),
      reading_(protocol_.mutex()),
      sending_parts_(protocol_.mutex()),
      pins_(welcome_.memory_bytes() / pinned_share),
      segments_(std::make_unique<Segments>(
          memory_mutex_, [this](ipc::SegmentId id) { return map_segment(id); },
          [this](ipc::SegmentId id) { tell_unmapped(id); },
          [this] { return alive() && channel_.memory_wanted() ? 0 : welcome_.memory_bytes() / kept_share; }, pins_)),
      left_in_place_(std::make_unique<LeftInPlace>(memory_mutex_)),
      arenas_(make_arenas()) {}

std::unique_ptr<Arena> Connection::make_arena(Device device, std::uint64_t memory_bytes) {
  return std::make_unique<Arena>(
      memory_mutex_,
      Arena::Source{[this, device](std::uint64_t bytes, std::chrono::nanoseconds timeout, const Stop& stop) {
                      return lease_segment(device, bytes, timeout, stop);
                    },
                    [this](ipc::SegmentId id) {
                      segments_->forget(id);
                      tell_returned(*this, id);
                    },
                    [this] { collect(); }, [this] { return alive() && channel_.memory_wanted(); }},
      memory_bytes / kept_share, welcome_.segments_about, device);
}

std::unique_ptr<Arenas> Connection::make_arenas() {
  std::vector<std::unique_ptr<Arena>> arenas;
  for (const auto& memory : welcome_.devices) arenas.push_back(make_arena(memory.device, memory.bytes));
  return std::make_unique<Arenas>(std::move(arenas));
}

Connection::~Connection() = default;

Result<std::shared_ptr<Connection>> Connection::open_or_reuse(const ConnectOptions& options) {
  if (auto found = existing(ipc::socket_path(options.socket)); found && found->still_served()) return found;
  return open(options);
}

// ---- opening ----

Result<Channel> Connection::map_channel(const ipc::Fd& memory, const std::string& path) {
  auto mapped = ipc::Mapping::map(memory, ipc::channel_bytes, ipc::Access::read_write);
  if (!mapped) return mapped.error();
  const auto& header = *reinterpret_cast<const ipc::ChannelHeader*>(mapped->data());
  if (header.magic != ipc::channel_magic || header.version != ipc::channel_version)
    return Error(Code::invalid,
                 fmt::format("the daemon at {} has rings of layout {}, this process knows {}", path, header.version,
                             ipc::channel_version),
                 "install the same version of Muster on both sides");
  // A forked child must not write into its parent's rings.
  if (::madvise(mapped->data(), mapped->bytes(), MADV_DONTFORK) != 0)
    return ipc::system_error(Code::failed, "can't keep the channel from forked children", errno);
  return Channel{std::move(*mapped), {}, {}};
}

Result<std::shared_ptr<Connection>> Connection::attach(const std::string& path, const ConnectOptions& options,
                                                       SteadyTime until) {
  auto greeted = greet(path, options.name, until);
  if (!greeted) return greeted.error();
  Start start;
  start.welcome = std::move(greeted->welcome);
  start.socket = std::move(greeted->socket);
  auto channel = map_channel(greeted->channel, path);
  // A daemon that is just ending does not let clients map the rings. It has said so, or has closed the socket.
  if (auto opened = open_rings(start.socket, path); !opened) return opened.error();
  if (!channel) return channel.error();
  start.channel = std::move(*channel);
  start.channel.doorbell = std::move(greeted->doorbell);
  start.channel.notify = std::move(greeted->notify);
  std::shared_ptr<Connection> connection(new Connection(std::move(start)));
  MUSTER_FAILPOINT(connected);
  // If two threads connect at once, both get the same connection, and the other one is closed here.
  return remember_connection(connection);
}

Result<std::shared_ptr<Connection>> Connection::open(const ConnectOptions& options) {
  const std::string path = ipc::socket_path(options.socket);
  const auto until = steady_clock::now() + bounded(options.timeout);
  for (;;) {
    auto attached = attach(path, options, until);
    if (attached || attached.error().code() != Code::daemon_unavailable) return attached;
    if (!options.start_daemon || steady_clock::now() >= until) return attached;
    if (interrupted()) return Error(Code::timeout, fmt::format("connecting to {} was interrupted", path));
    // No daemon listens, or it is just ending: starts the next one.
    if (auto started = start_daemon(path, options, until); !started) return started.error();
  }
}

// ---- ending ----

bool Connection::still_served() {
  for (;;) {
    if (!alive() || !exchange_.has_hung_up()) return alive();
    // Another thread may be reading the last packets of the daemon.
    if (!receive_if_free()) std::this_thread::yield();
  }
}

Error Connection::end_error() {
  if (inherited())
    return Error(Code::daemon_unavailable, "a forked child can't use its parent's connection and groups",
                 "attach in the child: muster.init() and muster.group(); in C++, Client::connect() and join()");
  // If a new daemon runs already, the message must not ask the user to start one.
  const auto next = existing(welcome_.socket);
  if (next && next->welcome().incarnation != welcome_.incarnation)
    return Error(
        Code::daemon_restarted,
        fmt::format("the daemon at {} that this belonged to has ended, and another one serves there", welcome_.socket),
        "its objects and groups have gone with it: make the refs again, and join the groups again");
  const auto why = locked([](Protocol& protocol) { return protocol.end_error(); });
  return why.value_or(Error(Code::daemon_unavailable, "the connection to the daemon is closed"));
}

void Connection::end(const Error& error) {
  if (!locked([&](Protocol& protocol) { return protocol.lose(error); })) return;
  // What the daemon published before it ended still counts; then nothing more can come.
  while (drain()) {
  }
  Works::Aftermath over;
  locked([&](Protocol& protocol) { protocol.end(over); });
  wake_waiters();
  completions_.end_events(exchange_.fd());
  left_in_place_->end();
}

// ---- memory ----

namespace {

/// A daemon gives a GPU's worker some seconds, also where the caller has less. So a late answer may be the worker's.
Error on_gpu(Error error, Device device, const std::string& what, std::chrono::nanoseconds timeout) {
  if (error.code() != Code::timeout || device.is_host()) return error;
  return {
      Code::timeout, fmt::format("{} did not {} within {}", name(device), what, ipc::seconds_text(timeout)),
      "its worker is busy, starts or hangs, or the daemon does: see `muster status` and `nvidia-smi`, and try again "
      "with a longer timeout"};
}

}  // namespace

Result<LeasedSegment> Connection::lease_segment(Device device, std::uint64_t bytes, std::chrono::nanoseconds timeout,
                                                const Stop& stop) {
  const auto until = std::chrono::steady_clock::now() + bounded(timeout);
  const auto build = [&](std::uint64_t number) {
    return build_frame(number, wire::Body_Lease, [&](auto& fbb) {
      const auto left = until - std::chrono::steady_clock::now();
      const wire::Device on(static_cast<std::uint8_t>(device.kind), device.index);
      return wire::CreateLease(fbb, bytes, milliseconds_of(left), false, &on).Union();
    });
  };
  auto granted = request(build, timeout + answer_timeout, stop);
  if (!granted)
    return on_gpu(granted.error(), device, fmt::format("make {} of memory", ipc::bytes_text(bytes)), timeout);
  return map_lease(*this, std::move(*granted), device);
}

Result<ipc::SegmentId> Connection::leave_in_place(CudaSharedPtr memory, Device device, LeftInPlace::Owner owner,
                                                  std::chrono::nanoseconds timeout) {
  const auto until = std::chrono::steady_clock::now() + bounded(timeout);
  const auto build = [&](std::uint64_t number) {
    return build_frame(number, wire::Body_LeaveInPlace, [&](auto& fbb) {
      const wire::Device on(static_cast<std::uint8_t>(device.kind), device.index);
      const auto named = ipc::in_place_as<wire::InPlace>(memory->memory());
      const auto left = until - std::chrono::steady_clock::now();
      return wire::CreateLeaveInPlace(fbb, &on, &named, milliseconds_of(left)).Union();
    });
  };
  auto left = request(build, timeout + answer_timeout);
  // Without an answer, somebody may have it open all the same.
  if (!left && left.error().code() == Code::timeout) left_in_place_->add({}, std::move(memory), std::move(owner));
  if (!left) return on_gpu(left.error(), device, "open the memory", timeout);
  const auto* body = wire::GetFrame(left->bytes.data())->body_as_Segment();
  if (!body) return Error(Code::failed, "the daemon's answer to LeaveInPlace makes no sense");
  const ipc::SegmentId segment{body->segment()};
  left_in_place_->add(segment, std::move(memory), std::move(owner));
  return segment;
}

Result<void> Connection::share(ipc::ObjectId object) {
  for (const auto& [arena, segment] : arenas_->share(object)) {
    // If somebody here views the segment, its mapping stays, and so its memory stays, too.
    if (!segments_->forget(segment) || !arena->hand_over(segment)) continue;
    Scratch body;
    ipc::write(ipc::HandOver{segment}, *body);
    if (auto sent = submit(ipc::SubmissionType::hand_over, *body); !sent) return sent;
  }
  return {};
}

Result<SegmentHandle> Connection::map_segment(ipc::SegmentId segment) {
  locked([&](Protocol& protocol) { protocol.releases.mapped_again(segment); });
  auto packet = ask(*this, wire::Body_Map, answer_timeout,
                    [&](auto& fbb) { return wire::CreateMap(fbb, segment.value).Union(); });
  if (!packet) return packet.error();
  const auto* body = wire::GetFrame(packet->bytes.data())->body_as_Segment();
  if (body && body->in_place())
    return SegmentHandle{{}, body->bytes(), ipc::in_place_as<ipc::InPlaceMemory>(*body->in_place())};
  if (!body || packet->fds.size() != 1) return Error(Code::failed, "the daemon's answer to Map makes no sense");
  return SegmentHandle{std::move(packet->fds.front()), body->bytes()};
}

void Connection::tell_unmapped(ipc::SegmentId segment) {
  if (!alive()) return;
  locked([&](Protocol& protocol) { protocol.releases.unmapped(segment); });
  submissions_.flush_releases();
}

}  // namespace muster::detail
