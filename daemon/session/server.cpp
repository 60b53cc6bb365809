#include "session/server.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <csignal>
#include <cstring>
#include <deque>
#include <mutex>

#include <muster/ipc/socket.hpp>

#include "base/assert.hpp"
#include "base/log.hpp"
#include "memory/populator.hpp"
#include "session/channel.hpp"
#include "session/endpoint.hpp"
#include "session/frames.hpp"

namespace musterd {

using muster::Code;
using muster::Error;
using muster::Result;
namespace asio = boost::asio;
namespace ipc = muster::ipc;
using boost::system::error_code;

namespace {

using Descriptor = asio::posix::stream_descriptor;
constexpr auto readable = Descriptor::wait_read;

/// How often the kernel is asked for events while rings keep the thread busy.
constexpr unsigned turns_between_polls = 64;
constexpr int records_per_turn = 64;
constexpr int packets_per_turn = 16;
constexpr std::size_t unsent_frames_max = 1024;

/// A descriptor that Asio owns, lent to a function that wants an Fd.
struct Borrowed {
  explicit Borrowed(int number) : fd(number) {}
  Borrowed(const Borrowed&) = delete;
  Borrowed& operator=(const Borrowed&) = delete;
  ~Borrowed() { static_cast<void>(fd.release()); }
  ipc::Fd fd;
};

Error out_of_descriptors() {
  return {Code::quota_exceeded, "the daemon is out of file descriptors",
          "raise its limit (ulimit -n) or end some clients"};
}

/// Whether it has come to its end or has something to read. Asio recycles what it keeps per descriptor: an event of a
/// descriptor that was closed a moment ago may wake whoever waits for a new one.
bool is_readable(Descriptor& descriptor) {
  pollfd polled{descriptor.native_handle(), POLLIN, 0};
  return ::poll(&polled, 1, 0) > 0;
}

struct Unsent {
  std::vector<std::byte> frame;
  std::vector<ipc::Fd> fds;
};

struct Connection {
  Connection(asio::io_context& io, ClientId id_, int socket_fd)
      : id(id_), socket(io, socket_fd), process(io), doorbell(io), hello(io) {}
  ClientId id;
  Descriptor socket;
  Descriptor process;   ///< pidfd: a forked child may hold the socket open after the client's death
  Descriptor doorbell;  ///< a duplicate of the channel's
  asio::steady_timer hello;
  std::unique_ptr<Channel> channel;
  std::deque<Unsent> unsent;
  bool sending = false;
  bool paused = false;  ///< frames are not received until what is unsent has gone out
  bool polled = false;
  bool dirty = false;
  bool closing = false;  ///< the node has forgotten it; what is unsent still goes out
};
using ConnectionPtr = std::shared_ptr<Connection>;

class AsioServer final : public Server, public Outside {
 public:
  AsioServer(ServerSettings settings, Endpoint endpoint);
  ~AsioServer() override;
  std::string run() override;

  // Outside
  void send(ClientId client, std::span<const std::byte> frame, std::span<const int> fds) override;
  void welcome(ClientId client, std::span<const std::byte> frame) override;
  void greeted(ClientId client) override;
  void complete(ClientId client, ipc::CompletionType type, std::span<const std::byte> body) override;
  void close(ClientId client, const std::string& why) override;
  void read_all_rings() override;
  Result<ipc::Fd> watch_lifeline(ClientId heir) override;
  void run(Job job) override;
  void populate(const MappingPtr& mapping) override { populator_.populate(mapping); }
  ipc::Capability random_capability() override;
  void stop(std::string reason) override;

 private:
  // accepting
  void wait_for_connections();
  void accept_some();
  [[nodiscard]] bool refuse_one();
  static void refuse(const ipc::Fd& socket, const Error& why);
  void adopt(ipc::Fd socket);
  // one connection
  void wait_for_frames(const ConnectionPtr& connection);
  void wait_for_doorbell(const ConnectionPtr& connection);
  void wait_for_death(const ConnectionPtr& connection);
  void receive_some(const ConnectionPtr& connection);
  void wait_for_lifeline(ClientId heir, const std::shared_ptr<Descriptor>& line);
  bool read_ring(const ConnectionPtr& connection, int records_max);
  void read_ring_once(const ConnectionPtr& connection);
  void ended(const ConnectionPtr& connection, const std::string& how);
  void drop(const ConnectionPtr& connection);
  void flush_socket(const ConnectionPtr& connection);
  void unsendable(const ConnectionPtr& connection, const Error& error);
  [[nodiscard]] ConnectionPtr find(ClientId client) const;
  // the loop
  bool poll_rings();
  bool run_posted();
  void flush_completions();
  void set_polled(const ConnectionPtr& connection, bool polled);
  void sleep();
  void tick_if_due();
  void arm_idle_exit();
  void finish_stop();

  ServerSettings settings_;
  Endpoint endpoint_;
  asio::io_context io_{1};
  Descriptor listener_;
  asio::signal_set signals_;
  asio::steady_timer idle_;
  asio::steady_timer accept_again_;
  asio::steady_timer stop_deadline_;
  ipc::Fd spare_;  ///< given up to refuse a connection politely when descriptors run out
  std::map<ClientId, ConnectionPtr> connections_;
  std::vector<ConnectionPtr> polled_;
  std::vector<ConnectionPtr> dirty_;
  std::map<ClientId, std::shared_ptr<Descriptor>> lifelines_;
  std::uint32_t last_client_ = 0;
  std::vector<std::uint64_t> random_;
  TimePoint now_ = Clock::now();
  TimePoint next_tick_ = TimePoint::max();
  std::size_t jobs_ = 0;
  bool stopping_ = false;
  bool done_ = false;
  std::string reason_;

  Populator populator_;
  Node node_;
  // What lanes have posted holds leases of the node's objects, so it goes first.
  std::mutex posted_mutex_;
  std::vector<std::function<void()>> posted_;
  std::atomic<bool> has_posted_{false};
  std::atomic<bool> sleeping_{false};
  Engine engine_;
};

AsioServer::AsioServer(ServerSettings settings, Endpoint endpoint)
    : settings_(std::move(settings)),
      endpoint_(std::move(endpoint)),
      listener_(io_, ::fcntl(endpoint_.listener().get(), F_DUPFD_CLOEXEC, 0)),
      signals_(io_, SIGTERM, SIGINT),
      idle_(io_),
      accept_again_(io_),
      stop_deadline_(io_),
      spare_(::open("/dev/null", O_RDONLY | O_CLOEXEC)),
      node_(settings_.node, *this),
      engine_(settings_.node.lanes, [this](std::function<void()> function) {
        {
          const std::lock_guard lock(posted_mutex_);
          posted_.push_back(std::move(function));
        }
        has_posted_.store(true, std::memory_order_seq_cst);
        if (sleeping_.load(std::memory_order_seq_cst)) asio::post(io_, [] {});
      }) {}

AsioServer::~AsioServer() = default;

// ---- the loop ----

std::string AsioServer::run() {
  wait_for_connections();
  signals_.async_wait([this](error_code error, int signal) {
    if (!error) stop(std::string("it got ") + (signal == SIGTERM ? "SIGTERM" : "SIGINT"));
  });
  arm_idle_exit();
  if (settings_.ready) settings_.ready();
  ipc::Backoff backoff;
  ipc::Patience patience;
  TimePoint last_work = Clock::now();
  const auto works_now = [&] {
    patience.waited(now_ - last_work);
    last_work = now_;
    backoff.reset();
  };
  for (unsigned turn = 0; !done_; ++turn) {
    now_ = Clock::now();
    const bool polled = poll_rings();
    const bool worked = run_posted() || polled;
    flush_completions();
    if (worked) works_now();
    if (turn % turns_between_polls == 0) {
      io_.poll();
      io_.restart();
      flush_completions();
      tick_if_due();
    }
    if (worked) continue;
    // Lanes need the cores more than this thread needs to know a few microseconds earlier.
    if (!polled_.empty() && jobs_ == 0 && now_ - last_work < patience.spin_max()) {
      backoff.step();
      continue;
    }
    sleep();  // ends with what has come
    works_now();
  }
  return reason_;
}

bool AsioServer::poll_rings() {
  bool worked = false;
  // Reading may end connections, which changes polled_.
  for (std::size_t i = 0; i < polled_.size(); ++i) {
    const ConnectionPtr connection = polled_[i];
    if (connection->channel && connection->channel->has_submissions())
      worked |= read_ring(connection, records_per_turn);
  }
  return worked;
}

bool AsioServer::run_posted() {
  if (!has_posted_.load(std::memory_order_seq_cst)) return false;
  std::vector<std::function<void()>> functions;
  {
    const std::lock_guard lock(posted_mutex_);
    functions.swap(posted_);
    has_posted_.store(false, std::memory_order_seq_cst);
  }
  for (auto& function : functions) function();
  return !functions.empty();
}

void AsioServer::flush_completions() {
  for (std::size_t i = 0; i < dirty_.size(); ++i) {
    const ConnectionPtr connection = dirty_[i];
    connection->dirty = false;
    if (!connection->channel || connection->closing) continue;
    if (auto flushed = connection->channel->flush(); !flushed) node_.violated(connection->id, flushed.error(), now_);
  }
  dirty_.clear();
}

void AsioServer::sleep() {
  for (const auto& connection : polled_) connection->channel->set_polled(false);
  const bool pending = std::any_of(polled_.begin(), polled_.end(),
                                   [](const auto& connection) { return connection->channel->has_submissions(); });
  if (pending) {
    for (const auto& connection : polled_) connection->channel->set_polled(true);
    return;
  }
  for (const auto& connection : polled_) connection->polled = false;
  polled_.clear();
  sleeping_.store(true, std::memory_order_seq_cst);
  if (!has_posted_.load(std::memory_order_seq_cst) && !done_) {
    const auto deadline = node_.next_deadline();
    if (deadline) io_.run_one_until(*deadline);
    else io_.run_one();
  }
  sleeping_.store(false, std::memory_order_seq_cst);
  now_ = Clock::now();
  io_.poll();
  io_.restart();
  flush_completions();
  const auto deadline = node_.next_deadline();
  if (deadline && *deadline <= now_) {
    node_.tick(now_);
    flush_completions();
  }
}

void AsioServer::tick_if_due() {
  // While busy, deadlines are looked at once a millisecond.
  if (next_tick_ != TimePoint::max() && now_ < next_tick_) return;
  next_tick_ = now_ + std::chrono::milliseconds(1);
  const auto deadline = node_.next_deadline();
  if (deadline && *deadline <= now_) node_.tick(now_);
}

void AsioServer::set_polled(const ConnectionPtr& connection, bool polled) {
  if (connection->polled == polled || !connection->channel) return;
  connection->polled = polled;
  connection->channel->set_polled(polled);
  if (polled) polled_.push_back(connection);
  else std::erase(polled_, connection);
}

// ---- accepting ----

void AsioServer::wait_for_connections() {
  listener_.async_wait(readable, [this](error_code error) {
    if (error || stopping_) return;
    accept_some();
  });
}

void AsioServer::accept_some() {
  constexpr int connections_per_turn = 32;
  for (int i = 0; i < connections_per_turn; ++i) {
    ipc::Fd socket(::accept4(listener_.native_handle(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (socket) {
      adopt(std::move(socket));
      continue;
    }
    if (errno == EMFILE || errno == ENFILE) {
      if (refuse_one()) continue;
      // Not even one to refuse with: others wait in line until there is.
      constexpr auto pause = std::chrono::milliseconds(50);
      accept_again_.expires_after(pause);
      return accept_again_.async_wait([this](error_code error) {
        if (!error && !stopping_) accept_some();
      });
    }
    break;
  }
  wait_for_connections();
}

bool AsioServer::refuse_one() {
  spare_.reset();
  {
    const ipc::Fd socket(::accept4(listener_.native_handle(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (socket) refuse(socket, out_of_descriptors());
  }
  spare_.reset(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  return static_cast<bool>(spare_);
}

void AsioServer::refuse(const ipc::Fd& socket, const Error& why) {
  static_cast<void>(ipc::send_packet(socket, frames::goodbye(why), {}));
  log_limited(LogLevel::warning, "refuse", "refused a connection: {}", why.describe());
}

void AsioServer::adopt(ipc::Fd socket) {
  if (connections_.size() >= settings_.clients_max)
    return refuse(socket, Error(Code::quota_exceeded, std::to_string(connections_.size()) + " clients are connected",
                                "raise --clients-max"));
  ucred credentials{};
  socklen_t size = sizeof credentials;
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) return;
  ipc::Fd process(static_cast<int>(::syscall(SYS_pidfd_open, credentials.pid, 0)));
  if (!process && (errno == EMFILE || errno == ENFILE)) return refuse(socket, out_of_descriptors());
  const ClientId id{++last_client_};
  auto connection = std::make_shared<Connection>(io_, id, socket.release());
  connections_.emplace(id, connection);
  node_.connected(id, {credentials.uid, credentials.pid}, now_);
  // Without a pidfd (a process that is gone already, or of another pid namespace) the socket's end has to do.
  if (process) {
    connection->process.assign(process.release());
    wait_for_death(connection);
  }
  connection->hello.expires_after(settings_.hello_timeout);
  connection->hello.async_wait([this, connection](error_code error) {
    if (error) return;
    node_.violated(connection->id, Error(Code::timeout, "no Hello came"), Clock::now());
  });
  wait_for_frames(connection);
  idle_.cancel();
}

// ---- one connection ----

ConnectionPtr AsioServer::find(ClientId client) const {
  auto found = connections_.find(client);
  return found == connections_.end() ? nullptr : found->second;
}

void AsioServer::wait_for_frames(const ConnectionPtr& connection) {
  connection->socket.async_wait(readable, [this, connection](error_code error) {
    if (!error && !connection->closing) receive_some(connection);
  });
}

void AsioServer::receive_some(const ConnectionPtr& connection) {
  now_ = Clock::now();
  const Borrowed socket(connection->socket.native_handle());
  for (int i = 0; i < packets_per_turn && !connection->closing; ++i) {
    ipc::Packet packet;
    auto received = ipc::receive_packet(socket.fd, packet, ipc::Sender::client);
    if (!received) return node_.violated(connection->id, received.error(), now_);
    if (*received == ipc::Received::closed) return ended(connection, "closed its connection");
    if (*received == ipc::Received::would_block) break;
    // What the client put into its ring before it sent this comes first.
    read_ring_once(connection);
    if (connection->closing) return;
    node_.frame(connection->id, packet.bytes, packet.fds.size(), now_);
    // Who doesn't read its replies gets no more of them: what is unsent stays bounded.
    if (!connection->closing && !connection->unsent.empty()) {
      connection->paused = true;
      return;
    }
  }
  if (!connection->closing) wait_for_frames(connection);
}

void AsioServer::wait_for_doorbell(const ConnectionPtr& connection) {
  connection->doorbell.async_wait(readable, [this, connection](error_code error) {
    if (error || connection->closing) return;
    connection->channel->clear_doorbell();
    set_polled(connection, true);
    // It may be ringing because it made room in its completion ring.
    if (!connection->dirty) {
      connection->dirty = true;
      dirty_.push_back(connection);
    }
    wait_for_doorbell(connection);
  });
}

void AsioServer::wait_for_death(const ConnectionPtr& connection) {
  connection->process.async_wait(readable, [this, connection](error_code error) {
    if (error || connection->closing) return;
    if (is_readable(connection->process)) ended(connection, "died");
    else wait_for_death(connection);
  });
}

bool AsioServer::read_ring(const ConnectionPtr& connection, int records_max) {
  for (int i = 0; i < records_max; ++i) {
    if (connection->closing) return true;
    auto record = connection->channel->next();
    if (!record) {
      node_.violated(connection->id, record.error(), now_);
      return true;
    }
    if (!*record) return i > 0;
    node_.record(connection->id, static_cast<ipc::SubmissionType>((*record)->type), (*record)->body, now_);
  }
  return true;
}

void AsioServer::read_ring_once(const ConnectionPtr& connection) {
  // All that a ring can hold, and not what a client goes on writing meanwhile.
  constexpr int records_max = ipc::ring_bytes / sizeof(ipc::RecordHeader);
  if (connection->channel && connection->channel->has_submissions()) read_ring(connection, records_max);
}

void AsioServer::read_all_rings() {
  std::vector<ConnectionPtr> all;
  for (const auto& [id, connection] : connections_) all.push_back(connection);
  for (const auto& connection : all) read_ring_once(connection);
}

void AsioServer::ended(const ConnectionPtr& connection, const std::string& how) {
  now_ = Clock::now();
  // What it had published before it ended still counts.
  read_ring_once(connection);
  if (connection->closing) return;
  log_limited(LogLevel::info, "ended", "client {} {}", connection->id.value, how);
  node_.disconnected(connection->id, how, now_);
  connection->unsent.clear();
  drop(connection);
}

void AsioServer::close(ClientId client, const std::string& why) {
  log_limited(LogLevel::warning, "close", "closed the connection of client {}, {}", client.value, why);
  auto connection = find(client);
  if (!connection) return;
  connection->closing = true;
  flush_socket(connection);
  // What doesn't fit into the socket now is for somebody who doesn't read.
  if (connections_.contains(client)) drop(connection);
}

void AsioServer::drop(const ConnectionPtr& connection) {
  connection->closing = true;
  if (connection->polled) std::erase(polled_, connection);
  connection->polled = false;
  error_code ignored;
  connection->hello.cancel();
  connection->socket.close(ignored);
  connection->process.close(ignored);
  connection->doorbell.close(ignored);
  connections_.erase(connection->id);
  if (stopping_) return finish_stop();
  if (connections_.empty()) arm_idle_exit();
}

void AsioServer::flush_socket(const ConnectionPtr& connection) {
  const Borrowed socket(connection->socket.native_handle());
  while (!connection->unsent.empty()) {
    std::vector<int> fds;
    for (const auto& fd : connection->unsent.front().fds) fds.push_back(fd.get());
    auto sent = ipc::send_packet(socket.fd, connection->unsent.front().frame, fds);
    if (!sent) {
      connection->unsent.clear();
      if (!connection->closing) unsendable(connection, sent.error());
      break;
    }
    if (!*sent) {
      if (connection->sending) return;
      connection->sending = true;
      connection->socket.async_wait(Descriptor::wait_write, [this, connection](error_code error) {
        connection->sending = false;
        if (!error) flush_socket(connection);
      });
      return;
    }
    connection->unsent.pop_front();
  }
  if (connection->closing) {
    if (connections_.contains(connection->id)) drop(connection);
  } else if (std::exchange(connection->paused, false)) {
    wait_for_frames(connection);
  }
}

void AsioServer::unsendable(const ConnectionPtr& connection, const Error& error) {
  // Its end is noticed by who waits for it. Otherwise it would wait in vain for a reply.
  if (error.code() == Code::daemon_unavailable) return;
  asio::post(io_, [this, id = connection->id, error] { node_.violated(id, error, now_); });
}

// ---- Outside ----

void AsioServer::send(ClientId client, std::span<const std::byte> frame, std::span<const int> fds) {
  auto connection = find(client);
  if (!connection || connection->closing) return;
  if (connection->unsent.empty()) {
    const Borrowed socket(connection->socket.native_handle());
    auto sent = ipc::send_packet(socket.fd, frame, fds);
    if (!sent) return unsendable(connection, sent.error());
    if (*sent) return;
  }
  if (connection->unsent.size() >= unsent_frames_max) return;  // more than its requests may be
  Unsent unsent{{frame.begin(), frame.end()}, {}};
  for (const int fd : fds) {
    unsent.fds.emplace_back(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
    if (!unsent.fds.back()) return unsendable(connection, out_of_descriptors());
  }
  connection->unsent.push_back(std::move(unsent));
  flush_socket(connection);
}

void AsioServer::greeted(ClientId client) {
  if (auto connection = find(client)) connection->hello.cancel();
}

void AsioServer::welcome(ClientId client, std::span<const std::byte> frame) {
  auto connection = find(client);
  MUSTER_ASSERT(connection && !connection->channel, "a client is welcomed once");
  auto channel = Channel::create();
  if (!channel) {
    log_limited(LogLevel::warning, "channel", "no channel for client {}: {}", client.value, channel.error().describe());
    node_.violated(client, channel.error(), now_);
    return;
  }
  ipc::Fd doorbell(::fcntl((*channel)->doorbell(), F_DUPFD_CLOEXEC, 0));
  if (!doorbell) return node_.violated(client, out_of_descriptors(), now_);
  connection->channel = std::move(*channel);
  connection->doorbell.assign(doorbell.release());
  wait_for_doorbell(connection);
  send(client, frame, connection->channel->descriptors());
}

void AsioServer::complete(ClientId client, ipc::CompletionType type, std::span<const std::byte> body) {
  auto connection = find(client);
  if (!connection || !connection->channel || connection->closing) return;
  if (auto queued = connection->channel->complete(type, body); !queued) {
    // Telling the node now could end the client in the middle of what it does for it.
    asio::post(io_, [this, client, error = queued.error()] { node_.violated(client, error, now_); });
    return;
  }
  if (connection->dirty) return;
  connection->dirty = true;
  dirty_.push_back(std::move(connection));
}

Result<ipc::Fd> AsioServer::watch_lifeline(ClientId heir) {
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0) return out_of_descriptors();
  ipc::Fd other(pair[1]);
  const auto line = std::make_shared<Descriptor>(io_, pair[0]);
  lifelines_.emplace(heir, line);
  wait_for_lifeline(heir, line);
  return other;
}

void AsioServer::wait_for_lifeline(ClientId heir, const std::shared_ptr<Descriptor>& line) {
  line->async_wait(readable, [this, heir, line](error_code error) {
    if (error) return;
    if (!is_readable(*line)) return wait_for_lifeline(heir, line);
    lifelines_.erase(heir);
    node_.lifeline_closed(heir, Clock::now());
  });
}

void AsioServer::run(Job job) {
  ++jobs_;
  job.done = [this, done = std::move(job.done)] {
    --jobs_;
    done();
  };
  engine_.submit(std::move(job));
}

ipc::Capability AsioServer::random_capability() {
  constexpr std::size_t words = 512;
  if (random_.size() < 2) {
    random_.resize(words);
    const auto bytes = words * sizeof(std::uint64_t);
    MUSTER_ASSERT(::getrandom(random_.data(), bytes, 0) == static_cast<ssize_t>(bytes), "the kernel has randomness");
  }
  ipc::Capability capability;
  for (auto& word : capability.bits) {
    word = random_.back();
    random_.pop_back();
  }
  return capability;
}

// ---- the end ----

void AsioServer::arm_idle_exit() {
  if (settings_.node.idle_exit_s <= 0 || stopping_) return;
  idle_.expires_after(std::chrono::duration_cast<Duration>(std::chrono::duration<double>(settings_.node.idle_exit_s)));
  idle_.async_wait([this](error_code error) {
    if (error || !connections_.empty()) return;
    accept_some();  // somebody may have come at this very moment
    if (connections_.empty()) stop("nobody was connected for a while");
  });
}

void AsioServer::stop(std::string reason) {
  if (stopping_) return;
  stopping_ = true;
  reason_ = std::move(reason);
  log_info("ending: {}", reason_);
  error_code ignored;
  listener_.close(ignored);
  endpoint_.close();
  stop_deadline_.expires_after(settings_.stop_timeout);
  stop_deadline_.async_wait([this](error_code) { done_ = true; });
  // The one who asked is in the middle of a request; let its reply go out first.
  asio::post(io_, [this] {
    node_.shut_down(reason_, Clock::now());
    flush_completions();
    std::vector<ConnectionPtr> all;
    for (const auto& [id, connection] : connections_) all.push_back(connection);
    for (const auto& connection : all) {
      connection->closing = true;
      flush_socket(connection);
    }
    finish_stop();
  });
}

void AsioServer::finish_stop() {
  if (connections_.empty()) done_ = true;
}

}  // namespace

Result<std::unique_ptr<Server>> Server::create(ServerSettings settings) {
  constexpr auto patience = std::chrono::seconds(10);
  auto endpoint = Endpoint::open(settings.socket, settings.socket_mode, patience);
  if (!endpoint) return endpoint.error();
  return std::unique_ptr<Server>(std::make_unique<AsioServer>(std::move(settings), std::move(*endpoint)));
}

}  // namespace musterd
