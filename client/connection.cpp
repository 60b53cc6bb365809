// Opening and ending a connection, and what it hands out by itself: names, random numbers, segments.
#include "connection.hpp"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <thread>
#include <utility>

#include <muster/ipc/failpoint.hpp>
#include <muster/ipc/place.hpp>

#include "bounded_time.hpp"
#include "fork.hpp"
#include "hold.hpp"
#include "interrupted.hpp"
#include "requests.hpp"
#include "seat.hpp"
#include "start_daemon.hpp"

namespace muster::detail {

namespace wire = ipc::wire;
using std::chrono::steady_clock;

namespace {

/// Of a request that the daemon answers at once, whatever it has to do.
constexpr auto answer_timeout = std::chrono::seconds(10);
/// How much of the budget a process keeps free for its next arrays, and keeps mapped of what it doesn't read any more.
constexpr std::uint64_t kept_share = 8;
std::uint64_t kept_bytes(const Welcome& welcome) { return welcome.memory_bytes / kept_share; }

}  // namespace

struct Connection::Start {
  Welcome welcome;
  ipc::Fd socket;
  ipc::Fd doorbell;
  ipc::Fd notify;
  ipc::Mapping channel;
};

Connection::Connection(Start start)
    : welcome_(std::move(start.welcome)),
      socket_(std::move(start.socket)),
      doorbell_(std::move(start.doorbell)),
      notify_(std::move(start.notify)),
      channel_(std::move(start.channel)),
      submissions_(ring(0), header().submission_tail, header().submission_head),
      completions_(ring(1), header().completion_tail, header().completion_head),
      segments_(std::make_unique<Segments>([this](ipc::SegmentId id) { return map_segment(id); },
                                           [this](ipc::SegmentId id) { tell_unmapped(id); },
                                           [this] { return memory_wanted() ? 0 : kept_bytes(welcome_); })),
      arena_(std::make_unique<Arena>(
          Arena::Source{[this](std::uint64_t bytes, std::chrono::nanoseconds timeout, const Stop& stop) {
                          return lease_segment(bytes, timeout, stop);
                        },
                        [this](ipc::SegmentId id) {
                          segments_->forget(id);
                          tell_returned(*this, id);
                        },
                        [this] { collect(); }, [this] { return memory_wanted(); }},
          kept_bytes(welcome_), welcome_.segments_about)) {}

Connection::~Connection() = default;

Result<std::shared_ptr<Connection>> Connection::open_or_reuse(const ConnectOptions& options) {
  if (auto found = existing(ipc::socket_path(options.socket)); found && found->still_served()) return found;
  return open(options);
}

bool Connection::still_served() {
  for (;;) {
    pollfd hung_up{socket_.get(), POLLRDHUP, 0};
    if (!alive() || ::poll(&hung_up, 1, 0) == 0) return alive();
    // Another thread may be reading the daemon's last words.
    if (!receive_if_free()) std::this_thread::yield();
  }
}

Error Connection::end_error() const {
  if (inherited_)
    return Error(Code::daemon_unavailable, "a forked child can't use its parent's connection and groups",
                 "connect and join in the child");
  // Nobody has to start what runs already.
  const auto next = existing(welcome_.socket);
  if (next && next->welcome().incarnation != welcome_.incarnation)
    return Error(Code::daemon_restarted,
                 "the daemon at " + welcome_.socket + " that this belonged to has ended, and another one serves there",
                 "its objects and groups have gone with it: make the refs again, and join the groups again");
  const std::lock_guard lock(end_mutex_);
  return end_error_.value_or(Error(Code::daemon_unavailable, "the connection to the daemon is closed"));
}

// ---- opening ----

Result<std::shared_ptr<Connection>> Connection::attach(const std::string& path, const ConnectOptions& options,
                                                       SteadyTime until) {
  auto greeted = greet(path, options.name, until);
  if (!greeted) return greeted.error();
  Start start;
  start.welcome = std::move(greeted->welcome);
  start.socket = std::move(greeted->socket);
  start.doorbell = std::move(greeted->doorbell);
  start.notify = std::move(greeted->notify);
  auto channel = ipc::Mapping::map(greeted->channel, ipc::channel_bytes, ipc::Access::read_write);
  if (!channel) return channel.error();
  const auto& header = *reinterpret_cast<const ipc::ChannelHeader*>(channel->data());
  if (header.magic != ipc::channel_magic || header.version != ipc::channel_version)
    return Error(Code::invalid,
                 "the daemon at " + path + " has rings of layout " + std::to_string(header.version) +
                     ", this process knows " + std::to_string(ipc::channel_version),
                 "install the same version of Muster on both sides");
  // A forked child must not write into its parent's rings.
  if (::madvise(channel->data(), channel->bytes(), MADV_DONTFORK) != 0)
    return ipc::system_error(Code::failed, "can't keep the channel from forked children", errno);
  if (auto opened = open_rings(start.socket, path); !opened) return opened.error();
  start.channel = std::move(*channel);
  std::shared_ptr<Connection> connection(new Connection(std::move(start)));
  MUSTER_FAILPOINT(connected);
  // Of two threads that connect at once both get the same connection; the other one closes here.
  return remember_connection(connection);
}

Result<std::shared_ptr<Connection>> Connection::open(const ConnectOptions& options) {
  const std::string path = ipc::socket_path(options.socket);
  const auto until = steady_clock::now() + bounded(options.timeout);
  for (;;) {
    auto attached = attach(path, options, until);
    if (attached || attached.error().code() != Code::daemon_unavailable) return attached;
    if (!options.start_daemon || steady_clock::now() >= until) return attached;
    if (interrupted()) return Error(Code::timeout, "connecting to " + path + " was interrupted");
    // Nobody there, or one that is just ending: start the next.
    if (auto started = start_daemon(path, options, until); !started) return started.error();
  }
}

void Connection::end(const Error& error) {
  {
    const std::lock_guard lock(end_mutex_);
    if (std::exchange(ending_, true)) return;
    end_error_ = error;
  }
  // What the daemon published before it ended still counts; then nothing more can come.
  while (drain()) {
  }
  ended_ = true;
  decltype(works_) works;
  {
    const std::lock_guard lock(works_mutex_);
    works.swap(works_);
  }
  Aftermath aftermath;
  for (auto& [id, op] : works) finish(std::move(op), error, {}, aftermath);
  wake_waiters();
  const std::lock_guard lock(end_mutex_);
  if (!events_) return;
  // An event loop is woken once more, and not for ever by a socket that stays at its end.
  for (const int fd : {socket_.get(), notify_.get()}) ::epoll_ctl(events_.get(), EPOLL_CTL_DEL, fd, nullptr);
  ipc::signal(woken_);
}

// ---- memory ----

Result<LeasedSegment> Connection::lease_segment(std::uint64_t bytes, std::chrono::nanoseconds timeout,
                                                const Stop& stop) {
  const auto build = [&](std::uint64_t number) {
    return build_frame(number, wire::Body_Lease, [&](auto& fbb) {
      return wire::CreateLease(fbb, bytes, milliseconds_of(timeout), false).Union();
    });
  };
  auto granted = request(build, timeout + answer_timeout, stop);
  if (!granted) return granted.error();
  return map_lease(*this, std::move(*granted));
}

Result<void> Connection::share(ipc::ObjectId object) {
  for (const auto segment : arena_->share(object)) {
    // What somebody views here stays mapped, and so its memory stays, too.
    if (!segments_->forget(segment) || !arena_->hand_over(segment)) continue;
    Scratch body;
    ipc::write(ipc::HandOver{segment}, *body);
    if (auto sent = submit(ipc::SubmissionType::hand_over, *body); !sent) return sent;
  }
  return {};
}

Result<SegmentHandle> Connection::map_segment(ipc::SegmentId segment) {
  {
    // What the daemon has not been told yet is not true any more.
    const std::lock_guard lock(releases_mutex_);
    std::erase(unmapped_, segment);
  }
  auto packet = ask(*this, wire::Body_Map, answer_timeout,
                    [&](auto& fbb) { return wire::CreateMap(fbb, segment.value).Union(); });
  if (!packet) return packet.error();
  const auto* body = wire::GetFrame(packet->bytes.data())->body_as_Segment();
  if (!body || packet->fds.size() != 1) return Error(Code::failed, "the daemon's answer to Map makes no sense");
  return SegmentHandle{std::move(packet->fds.front()), body->bytes()};
}

void Connection::add_hard_lease(const LeasedSegment& segment) {
  const std::lock_guard lock(hard_mutex_);
  hard_leases_[segment.id] = {segment.mapping.data(), segment.mapping.bytes(), segment.fd.get(), 0};
}

void Connection::forget_hard_lease(ipc::SegmentId segment) {
  const std::lock_guard lock(hard_mutex_);
  hard_leases_.erase(segment);
}

// ---- names ----

ipc::ObjectId Connection::next_object() { return ipc::make_object_id(welcome_.client, ++last_object_); }

ipc::Capability Connection::random_capability() {
  constexpr std::size_t words = 32;  // as much as the kernel gives in one piece, whatever happens
  const std::lock_guard lock(random_mutex_);
  if (random_.size() < 2) {
    random_.resize(words);
    const auto bytes = words * sizeof(std::uint64_t);
    // Guessable capabilities would be worse than no process.
    if (::getrandom(random_.data(), bytes, 0) != static_cast<ssize_t>(bytes)) std::abort();
  }
  ipc::Capability capability;
  for (auto& word : capability.bits) {
    word = random_.back();
    random_.pop_back();
  }
  return capability;
}

// ---- works and seats ----

void Connection::add_work(const std::shared_ptr<WorkState>& work) {
  const std::lock_guard lock(works_mutex_);
  works_.emplace(work->id, InFlight{work, nullptr, work->seat});
}

bool Connection::forget_work(ipc::WorkId work) { return take_in_flight(work).has_value(); }

void Connection::add_seat(const std::shared_ptr<Seat>& seat) {
  const std::lock_guard lock(works_mutex_);
  seats_[seat->id] = seat;
  auto early = early_changes_.extract(seat->id);
  if (early.empty()) return;
  const std::lock_guard seat_lock(seat->mutex);
  if (early.mapped().epoch < seat->epoch) return;
  seat->epoch = early.mapped().epoch;
  seat->live.assign(early.mapped().live.begin(), early.mapped().live.end());
}

void Connection::forget_seat(ipc::SeatId seat) {
  const std::lock_guard lock(works_mutex_);
  seats_.erase(seat);
}

bool Connection::forget_seal_error(ipc::ObjectId object) {
  if (!has_seal_errors_) return false;
  const std::lock_guard lock(works_mutex_);
  if (seal_errors_.erase(object) == 0) return false;
  has_seal_errors_ = !seal_errors_.empty();
  return true;
}

std::optional<Error> Connection::seal_error(ipc::ObjectId object) const {
  if (!has_seal_errors_) return std::nullopt;
  const std::lock_guard lock(works_mutex_);
  auto found = seal_errors_.find(object);
  return found == seal_errors_.end() ? std::nullopt : std::optional(found->second);
}

}  // namespace muster::detail
