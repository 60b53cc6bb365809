#include "session/server.hpp"

#include <fcntl.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <chrono>
#include <csignal>
#include <new>
#include <thread>

#include "base/log.hpp"
#include "session/asio_server.hpp"

namespace musterd {

using muster::Result;
namespace ipc = muster::ipc;

namespace {

/// How often the kernel is asked for events while rings keep the thread busy: after so many turns, or so long.
constexpr unsigned turns_between_events = 64;
constexpr Duration time_between_events = std::chrono::microseconds(500);

}  // namespace

AsioServer::AsioServer(ServerSettings settings, Endpoint endpoint)
    : settings_(std::move(settings)),
      endpoint_(std::move(endpoint)),
      listener_(io_, ::fcntl(endpoint_.listener().get(), F_DUPFD_CLOEXEC, 0)),
      signals_(io_, SIGTERM, SIGINT),
      idle_(io_),
      accept_again_(io_),
      stop_deadline_(io_),
      spare_(::open("/dev/null", O_RDONLY | O_CLOEXEC)),
      crowd_(settings_.clients_max, settings_.node.user),
      later_([this](std::function<void()> function) { asio::post(io_, std::move(function)); }),
      blocking_([this](std::function<void()> function) { take_posted(std::move(function)); }),
      node_(settings_.node, *this, backing_),
      lane_(
          settings_.node.lanes, [this](std::function<void()> function) { take_posted(std::move(function)); },
          settings_.place_lane) {}

AsioServer::~AsioServer() {
  rounds_.clear();
  // What waits for a connection's ring holds the connection. Charges end before the ledger does.
  for (const auto& [id, connection] : connections_) connection->behind.clear();
  later_.clear();
  for (const auto& [id, connection] : connections_) {
    connection->replies.reset();
    connection->backlog.reset();
  }
  for (const auto& [id, connection] : connections_)
    if (connection->socket.is_open())
      close_elsewhere(ipc::Fd(connection->socket.release()), lane_of(*connection, BlockingPool::Lane::Of::closing),
                      std::move(connection->charges.descriptors));
  for (const auto& [heir, line] : lifelines_) close_elsewhere(ipc::Fd(line->socket.release()), line->closing, {});
  for (const auto& [id, connection] : connections_)
    if (connection->channel) left_.push_back(connection);
  unmap_rings();
  blocking_.stop();
}

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
    const bool polled = take_turns();
    if (polled && lane_.busy()) lane_.give_way();
    const bool worked = run_posted() || polled;
    flush_completions();
    if (worked) works_now();
    if (turn % turns_between_events == 0 || now_ >= next_events_) {
      take_events();
      tick_if_due();
    }
    if (node_.goes_on()) {
      node_.go_on(now_);
      flush_completions();
      continue;
    }
    if (worked) continue;
    // Lanes need the cores more than this thread needs to know a few microseconds earlier.
    if (!rounds_.empty() && !lane_.busy() && now_ - last_work < patience.poll_max(backoff)) {
      backoff.step();
      continue;
    }
    sleep();  // ends with what has come
    works_now();
  }
  return reason_;
}

/// For a slice of time: what many clients send at once must not keep rings waiting.
void AsioServer::take_events() {
  const auto until = Clock::now() + Slice::length;
  while (io_.poll_one() > 0 && Clock::now() < until) {
  }
  io_.restart();
  flush_completions();
  next_events_ = Clock::now() + time_between_events;
}

namespace {

bool has_work(const Connection& connection) {
  return connection.has_frames || !connection.behind.empty() ||
         (connection.channel && connection.channel->has_submissions());
}

}  // namespace

/// True if somebody had something to do.
bool AsioServer::take_turns() {
  return rounds_.round(now_, has_work, [this](const ConnectionPtr& connection, Slice& slice) {
    if (connection->channel) read_ring(connection, slice);
    else if (connection->has_answers) run_behind(connection, slice);
    if (connection->has_frames) receive_some(connection, slice);
  });
}

void AsioServer::take_posted(std::function<void()> function) {
  // Called by other threads, which have nobody to tell that there is no memory; some comes back when others end.
  const auto kept = [&]() noexcept {
    try {
      const std::lock_guard lock(posted_mutex_);
      posted_.push_back(std::move(function));
      return true;
    } catch (const std::bad_alloc&) {
      return false;
    }
  };
  while (!kept()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  has_posted_.store(true, std::memory_order_seq_cst);
  if (sleeping_.load(std::memory_order_seq_cst)) asio::post(io_, [] {});
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
  std::optional<TimePoint> woke;
  for (std::size_t i = 0; i < dirty_.size(); ++i) {
    const ConnectionPtr connection = dirty_[i];
    connection->dirty = false;
    if (!connection->channel || connection->closing) continue;
    if (auto flushed = connection->channel->flush(); !flushed) node_.violated(connection->id, flushed.error(), now_);
    else charge_backlog(connection);
    if (connection->closing || !connection->channel->is_waited_for() || is_too_much(connection)) continue;
    if (!woke) woke = effort_.begin_batch();
    effort_.in_batch(connection->effort, KernelEffort::Of::waking, [&] { connection->channel->wake(); });
    static_cast<void>(is_too_much(connection));
  }
  if (woke && effort_.seems_long(*woke))
    for (const ConnectionPtr& connection : dirty_) connection->effort.of(KernelEffort::Of::waking).suspected = true;
  dirty_.clear();
  unmap_rings();
}

void AsioServer::sleep() {
  const auto set_polled = [&](bool polled) {
    rounds_.for_each([&](const ConnectionPtr& connection) {
      if (connection->polled) connection->channel->set_polled(polled);
    });
  };
  set_polled(false);
  bool pending = false;
  rounds_.for_each([&](const ConnectionPtr& connection) { pending |= has_work(*connection); });
  if (pending) return set_polled(true);
  rounds_.for_each([](const ConnectionPtr& connection) { connection->polled = false; });
  rounds_.clear();
  sleeping_.store(true, std::memory_order_seq_cst);
  if (!has_posted_.load(std::memory_order_seq_cst) && !done_) {
    const auto deadline = node_.next_deadline();
    if (deadline) io_.run_one_until(*deadline);
    else io_.run_one();
  }
  sleeping_.store(false, std::memory_order_seq_cst);
  now_ = Clock::now();
  take_events();
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
  if (!deadline || *deadline > now_) return;
  node_.tick(now_);
  flush_completions();
}

void AsioServer::set_polled(const ConnectionPtr& connection) {
  if (connection->polled || !connection->channel) return;
  set_takes_turns(connection, &Connection::polled, true);
  connection->channel->set_polled(true);
}

void AsioServer::set_dirty(const ConnectionPtr& connection) {
  if (std::exchange(connection->dirty, true)) return;
  dirty_.push_back(connection);
}

void AsioServer::set_takes_turns(const ConnectionPtr& connection, bool Connection::*why, bool is_so) {
  const bool before = connection->takes_turns();
  (*connection).*why = is_so;
  if (connection->takes_turns() == before) return;
  if (is_so) rounds_.add(connection);
  else rounds_.remove(connection);
}

// ---- the end ----

void AsioServer::arm_idle_exit() {
  if (settings_.node.idle_exit_s <= 0 || stopping_) return;
  idle_.expires_after(std::chrono::duration_cast<Duration>(std::chrono::duration<double>(settings_.node.idle_exit_s)));
  idle_.async_wait([this](error_code error) {
    if (error || !connections_.empty()) return;
    static_cast<void>(accept_waiting());  // somebody may have come at this very moment
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

Result<std::unique_ptr<Server>> Server::create(ServerSettings settings) {
  constexpr auto patience = std::chrono::seconds(10);
  auto endpoint = Endpoint::open(settings.socket, settings.socket_mode, patience);
  if (!endpoint) return endpoint.error();
  if (!*endpoint) return std::unique_ptr<Server>();
  return std::unique_ptr<Server>(std::make_unique<AsioServer>(std::move(settings), std::move(**endpoint)));
}

}  // namespace musterd
