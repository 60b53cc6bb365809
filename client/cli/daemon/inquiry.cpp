// One request at a time, each answered within a bound.
#include "inquiry.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include <fmt/format.h>

#include <muster/ipc/place.hpp>

#include "../message.hpp"

namespace muster::cli {

using flatbuffers::GetString;

namespace {

std::string start_hint(const std::string& given) {
  return "start one: muster start" + (given.empty() ? std::string() : " --socket " + given);
}

Error no_daemon(const std::string& path, int error_number, const std::string& hint_if_absent) {
  const bool nobody = error_number == ENOENT || error_number == ECONNREFUSED || error_number == ENOTDIR;
  if (nobody) return Error(Code::daemon_unavailable, "no daemon listens on " + path, hint_if_absent);
  const std::string hint = error_number == EACCES ? "it is another user's; see `muster doctor`" : "see `muster doctor`";
  return ipc::system_error(Code::daemon_unavailable, "can't connect to " + path, error_number, hint);
}

timeval timeval_of(std::chrono::milliseconds timeout) {
  const auto whole = std::chrono::floor<std::chrono::seconds>(timeout);
  return {whole.count(), std::chrono::microseconds(timeout - whole).count()};
}

Result<ipc::Fd> connect_to(const std::string& path, const std::string& hint_if_absent,
                           std::chrono::milliseconds timeout) {
  const auto address = ipc::unix_address(path);
  if (!address) return address.error();
  ipc::Fd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd) return ipc::system_error(Code::failed, "can't make a socket", errno);
  const timeval bound = timeval_of(timeout);
  ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof bound);
  ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &bound, sizeof bound);
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof *address) != 0)
    return no_daemon(path, errno, hint_if_absent);
  if (auto own = ipc::check_listener(fd, path); !own) return own.error();
  return fd;
}

std::optional<ucred> peer_of(const ipc::Fd& connected) {
  ucred peer{};
  socklen_t bytes = sizeof peer;
  if (::getsockopt(connected.get(), SOL_SOCKET, SO_PEERCRED, &peer, &bytes) != 0) return std::nullopt;
  return peer;
}

/// The error for a reply that is not the expected one.
Error refusal(const wire::Frame& frame) {
  if (const auto* failure = frame.body_as_Failure())
    return Error(static_cast<Code>(failure->code()), GetString(failure->message()), GetString(failure->hint()));
  if (const auto* goodbye = frame.body_as_Goodbye())
    return Error(static_cast<Code>(goodbye->code()), GetString(goodbye->reason()), GetString(goodbye->hint()));
  return Error(Code::failed, "the daemon gave an answer of an unexpected kind",
               "daemon and command may be of different versions: see `muster doctor`");
}

}  // namespace

Result<Inquiry> Inquiry::open(const std::string& socket, std::chrono::milliseconds timeout,
                              const std::string& hint_if_absent) {
  const std::string path = ipc::socket_path(socket);
  auto fd = connect_to(path, hint_if_absent.empty() ? start_hint(socket) : hint_if_absent, timeout);
  if (!fd) return fd.error();
  Inquiry inquiry(std::move(*fd), path, timeout);
  const auto greeted = inquiry.greet();
  if (!greeted) return greeted.error();
  return inquiry;
}

Result<void> Inquiry::greet() {
  flatbuffers::FlatBufferBuilder builder;
  const auto hello =
      wire::CreateHello(builder, ipc::protocol_version, builder.CreateString("muster command"), 0, false);
  const auto reply = ask(builder, wire::Body_Hello, hello.Union(), wire::Body_Welcome);
  if (!reply) return reply.error();
  const auto& welcome = *reply->frame().body_as_Welcome();
  if (welcome.protocol() != ipc::protocol_version)
    return Error(Code::invalid,
                 fmt::format("the daemon on {} (version {}) speaks protocol {}, this command protocol {}", path_,
                             GetString(welcome.version()), welcome.protocol(), ipc::protocol_version),
                 "install the same version of Muster on both sides");
  version_ = GetString(welcome.version());
  client_ = welcome.client();
  if (welcome.devices() && welcome.devices()->size() > 0) memory_bytes_ = welcome.devices()->Get(0)->bytes();
  idle_exit_s_ = welcome.idle_exit_s();
  pickle_lease_ = std::chrono::milliseconds(welcome.pickle_lease_ms());
  return {};
}

Result<Reply> Inquiry::ask(flatbuffers::FlatBufferBuilder& builder, wire::Body type, flatbuffers::Offset<void> body,
                           wire::Body expected) {
  wire::FinishFrameBuffer(builder, wire::CreateFrame(builder, ++requests_, type, body));
  const auto frame = std::as_bytes(std::span(builder.GetBufferPointer(), builder.GetSize()));
  // A daemon that refuses or ends may have closed its end already. What it said can still be read.
  static_cast<void>(ipc::send_packet(fd_, frame, {}));
  const auto until = std::chrono::steady_clock::now() + timeout_;
  for (;;) {
    if (!await_answer(until)) return no_answer();
    ipc::Packet packet;
    const auto received = ipc::receive_packet(fd_, packet);
    if (!received && received.error().code() == Code::invalid)
      return ipc::not_a_musterd(path_, received.error().message());
    if (!received) return received.error();
    if (*received == ipc::Received::closed)
      return Error(Code::daemon_unavailable, fmt::format("the daemon on {} ended", path_), start_hint(""));
    if (*received == ipc::Received::would_block) return no_answer();
    Reply reply(std::move(packet.bytes));
    if (reply.frame().request() != requests_ && reply.frame().body_type() != wire::Body_Goodbye) continue;
    if (reply.frame().body_type() != expected || reply.frame().body() == nullptr) return refusal(reply.frame());
    return reply;
  }
}

/// False: it doesn't come in time. A wait that a person notices is told of.
bool Inquiry::await_answer(std::chrono::steady_clock::time_point until) {
  const auto is_there = [&](std::chrono::steady_clock::time_point latest) {
    const auto rest = std::chrono::ceil<std::chrono::milliseconds>(latest - std::chrono::steady_clock::now()).count();
    pollfd readable{fd_.get(), POLLIN, 0};
    return ::poll(&readable, 1, static_cast<int>(std::max<std::int64_t>(rest, 0))) != 0;
  };
  constexpr auto noticed = std::chrono::seconds(1);
  const auto told_at = std::chrono::steady_clock::now() + noticed;
  if (!told_of_wait_ && told_at < until) {
    if (is_there(told_at)) return true;
    told_of_wait_ = true;
    const auto pid = daemon_pid();
    note(fmt::format("muster: the daemon on {}{} does not answer; waiting for it up to {} s more", path_,
                     pid ? fmt::format(" (pid {})", *pid) : "",
                     std::chrono::ceil<std::chrono::seconds>(until - told_at).count()));
  }
  return is_there(until);
}

Error Inquiry::no_answer() const {
  const auto pid = daemon_pid();
  const std::string process = pid ? std::to_string(*pid) : "PID";
  return Error(Code::timeout,
               fmt::format("the daemon on {} (pid {}) did not answer within {} ms", path_, process, timeout_.count()),
               fmt::format("if it is stopped, let it go on with `kill -CONT {0}`; `kill -KILL {0}` ends it", process));
}

Result<Reply> Inquiry::status() {
  flatbuffers::FlatBufferBuilder builder;
  return ask(builder, wire::Body_StatusQuery, wire::CreateStatusQuery(builder).Union(), wire::Body_StatusReply);
}

Result<Reply> Inquiry::objects(std::uint32_t limit) {
  flatbuffers::FlatBufferBuilder builder;
  return ask(builder, wire::Body_ObjectsQuery, wire::CreateObjectsQuery(builder, limit).Union(), wire::Body_Objects);
}

Result<Reply> Inquiry::groups() {
  flatbuffers::FlatBufferBuilder builder;
  return ask(builder, wire::Body_GroupsQuery, wire::CreateGroupsQuery(builder).Union(), wire::Body_Groups);
}

Result<Reply> Inquiry::clients() {
  flatbuffers::FlatBufferBuilder builder;
  return ask(builder, wire::Body_ClientsQuery, wire::CreateClientsQuery(builder).Union(), wire::Body_Clients);
}

Result<Reply> Inquiry::stop(const std::string& reason) {
  flatbuffers::FlatBufferBuilder builder;
  const auto stop = wire::CreateStop(builder, builder.CreateString(reason));
  return ask(builder, wire::Body_Stop, stop.Union(), wire::Body_Ok);
}

std::optional<pid_t> Inquiry::daemon_pid() const {
  const auto peer = peer_of(fd_);
  return peer && peer->pid > 0 ? std::optional(peer->pid) : std::nullopt;
}

bool Inquiry::is_trusted() const {
  const auto peer = peer_of(fd_);
  return peer && (peer->uid == 0 || peer->uid == ::geteuid());
}

bool Inquiry::wait_for_end(std::chrono::milliseconds timeout) {
  const auto pid = daemon_pid();
  const ipc::Fd process(pid ? static_cast<int>(::syscall(SYS_pidfd_open, *pid, 0)) : -1);
  if (pid && !process && errno == ESRCH) return true;
  if (process) fd_.reset();  // so that the daemon need not wait for this client
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  for (;;) {
    const auto rest = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    pollfd polled{process ? process.get() : fd_.get(), POLLIN, 0};
    if (rest.count() < 0 || ::poll(&polled, 1, static_cast<int>(rest.count())) == 0) return false;
    if (process && polled.revents != 0) return true;
    ipc::Packet packet;
    const auto received = ipc::receive_packet(fd_, packet);
    if (!received || *received == ipc::Received::closed) return true;
  }
}

}  // namespace muster::cli
