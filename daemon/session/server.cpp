#include "session/server.hpp"

#include <fcntl.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <new>

#include "base/log.hpp"
#include "session/asio_server.hpp"

namespace musterd {

using muster::Result;
namespace ipc = muster::ipc;

namespace {

/// While rings keep the thread busy, the kernel is asked for events after so many turns, or after so long.
constexpr unsigned turns_between_events = 64;
constexpr Duration time_between_events = std::chrono::microseconds(500);

}  // namespace

AsioServer::AsioServer(ServerSettings settings, Endpoint endpoint)
    : settings_(std::move(settings)),
      endpoint_(std::move(endpoint)),
      listener_(io_, ::fcntl(endpoint_.listener().get(), F_DUPFD_CLOEXEC, 0)),
      signals_(io_, SIGTERM, SIGINT),
      spare_(::open("/dev/null", O_RDONLY | O_CLOEXEC)),
      shares_(settings_.clients_max, settings_.node.user),
      gpus_(io_, settings_.gpus, settings_.gpu_worker,
            [posting = posting_](Errand errand) {
              const std::lock_guard lock(posting->mutex);
              if (posting->server) posting->server->take(errand);
            }),
      blocking_([this](Errand errand) { take_posted(std::move(errand)); }),
      node_(settings_.node, *this, gpus_.with(backing_)),
      lane_(
          settings_.node.lanes, [this](Errand errand) { take_posted(std::move(errand)); }, settings_.place_lane) {
  const std::lock_guard lock(posting_->mutex);
  posting_->server = this;
}

AsioServer::~AsioServer() {
  rounds_.clear();
  for (const auto& [id, connection] : connections_)
    if (connection->socket.is_open()) connection->left.reset(connection->socket.release());
  leaving_.merge(connections_);
  for (const auto& [heir, line] : lifelines_) line->left.reset(line->socket.release());
  loose_lines_.merge(lifelines_);
  // Functions that wait for a connection's ring hold the connection.
  for (const auto& [id, connection] : leaving_) connection->behind.clear();
  later_.clear();
  giving_back_.succeeded();
  give_back();
  // Charges must end before the ledger does. Descriptors that there was no memory to close elsewhere are closed here.
  for (const auto& [id, connection] : leaving_) connection->charges = {};
  for (const auto& [id, connection] : leaving_) connection->replies.reset(), connection->backlog.reset();
  blocking_.stop();
  // Errands hold pointers to the node's objects, so they are destroyed before the node. Later ones are dropped.
  const std::lock_guard lock(posting_->mutex);
  posting_->errands.clear();
  posting_->server = nullptr;
}

// ---- the loop ----

std::string AsioServer::run() {
  wait_for_connections();
  signals_.async_wait([this](error_code error, int signal) {
    if (!error) stop(signal == SIGTERM ? "it got SIGTERM" : "it got SIGINT");
  });
  wait_for_idle_exit();
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
    const bool posted = run_posted();
    const bool worked = run_later() || posted || polled;
    flush_completions();
    if (worked) works_now();
    if (std::exchange(shuts_down_, false)) shut_down();
    if (turn % turns_between_events == 0 || now_ >= next_events_) {
      take_events();
      tick_if_due();
    }
    if (go_on() || worked) continue;
    // While lanes work, this thread does not poll: they need the cores more than it needs to save a few microseconds.
    if (!rounds_.empty() && !lane_.busy() && now_ - last_work < patience.poll_max(backoff)) {
      backoff.step();
      continue;
    }
    sleep();  // handles what has come, too
    works_now();
  }
  return reason_;
}

/// Handles events for a slice of time, so that many clients that send at once don't keep rings waiting.
void AsioServer::take_events() noexcept {
  const auto until = Clock::now() + Slice::length;
  io_.restart();  // take_posted() may have stopped it
  try {
    while (io_.poll_one() > 0 && Clock::now() < until) {
    }
  } catch (const std::exception&) {
    // Handlers catch what they throw, and Asio itself has nothing to undo.
  }
  flush_completions();
  next_events_ = Clock::now() + time_between_events;
}

/// Lets the node go on with unfinished work. True if there was some. If it finds no memory, it is tried again after a
/// pause.
bool AsioServer::go_on() {
  if (!node_.goes_on() || !going_on_.may(now_)) return false;
  node_.go_on(now_);
  if (node_.found_no_memory()) going_on_.failed(now_);
  else going_on_.succeeded();
  flush_completions();
  return true;
}

namespace {

bool has_work(const Connection& connection) {
  return connection.has_frames || !connection.behind.empty() ||
         (connection.channel && connection.channel->has_submissions());
}

}  // namespace

/// True if any connection had something to do.
bool AsioServer::take_turns() {
  return rounds_.round(now_, has_work, [this](const ConnectionPtr& connection, Slice& slice) {
    guarded(connection, [&] {
      if (connection->channel) read_ring(connection, slice);
      else if (connection->has_answers) run_behind(connection, slice);
      if (connection->has_frames) receive_some(connection, slice);
    });
  });
}

/// Called by other threads. Takes no memory, as they could not report the lack of it.
void AsioServer::take_posted(Errand errand) noexcept {
  const std::lock_guard lock(posting_->mutex);
  if (posting_->server) take(errand);
}

/// The caller has the lock.
void AsioServer::take(Errand& errand) noexcept {
  posting_->errands.splice(posting_->errands.end(), errand);
  has_posted_.store(true, std::memory_order_seq_cst);
  if (sleeping_.load(std::memory_order_seq_cst)) io_.stop();
}

bool AsioServer::run_posted() noexcept {
  if (!has_posted_.load(std::memory_order_seq_cst)) return false;
  Errand errands;
  {
    const std::lock_guard lock(posting_->mutex);
    errands.swap(posting_->errands);
    has_posted_.store(false, std::memory_order_seq_cst);
  }
  for (const auto& function : errands) {
    try {
      function();
    } catch (const std::exception&) {
      // The node catches what its work for clients throws, and goes on with what is left.
    }
  }
  return !errands.empty();
}

bool AsioServer::run_later() noexcept {
  try {
    return later_.run_one();
  } catch (const std::exception&) {
    return true;  // as in run_posted()
  }
}

void AsioServer::flush_completions() noexcept {
  while (!cut_off_.empty() || !dirty_.empty()) {
    end_cut_off();
    std::optional<TimePoint> woke;
    for (std::size_t i = 0; i < dirty_.size(); ++i) {
      const ConnectionPtr connection = dirty_[i];
      connection->dirty = false;
      guarded(connection, [&] { flush(connection, woke); });
    }
    if (woke && effort_.seems_long(*woke))
      for (const ConnectionPtr& connection : dirty_) connection->effort.of(KernelEffort::Of::waking).suspected = true;
    dirty_.clear();
  }
  give_back();
}

/// `woke`: when the first of the clients that are flushed together was woken.
void AsioServer::flush(const ConnectionPtr& connection, std::optional<TimePoint>& woke) {
  if (!connection->channel || connection->closing) return;
  if (auto flushed = connection->channel->flush(); !flushed) return cut_off(connection, flushed.error());
  charge_backlog(connection);
  if (connection->cut_off || !connection->channel->is_waited_for() || is_too_much(connection)) return;
  if (!woke) woke = effort_.begin_batch();
  effort_.in_batch(connection->effort, KernelEffort::Of::waking, [&] { connection->channel->wake(); });
  static_cast<void>(is_too_much(connection));
}

void AsioServer::sleep() {
  const auto set_polled = [&](bool polled) {
    rounds_.for_each([&](const ConnectionPtr& connection) {
      if (connection->polled) connection->channel->set_polled(polled);
    });
  };
  set_polled(false);
  bool pending = shuts_down_ || !later_.empty();
  rounds_.for_each([&](const ConnectionPtr& connection) { pending |= has_work(*connection); });
  if (pending) return set_polled(true);
  rounds_.for_each([](const ConnectionPtr& connection) { connection->polled = false; });
  rounds_.clear();
  sleeping_.store(true, std::memory_order_seq_cst);
  if (!has_posted_.load(std::memory_order_seq_cst) && !done_) {
    const auto deadline = next_deadline();
    try {
      if (deadline == TimePoint::max()) io_.run_one();
      else io_.run_one_until(deadline);
    } catch (const std::exception&) {
      // The same holds as in take_events().
    }
  }
  sleeping_.store(false, std::memory_order_seq_cst);
  now_ = Clock::now();
  take_events();
  if (next_deadline() <= now_) tick();
}

void AsioServer::tick_if_due() {
  // While busy, deadlines are looked at once a millisecond.
  if (next_tick_ != TimePoint::max() && now_ < next_tick_) return;
  next_tick_ = now_ + std::chrono::milliseconds(1);
  if (next_deadline() <= now_) tick();
}

/// When there is something to do even if nothing comes in.
TimePoint AsioServer::next_deadline() const {
  auto next = std::min({idle_exit_, stop_deadline_, node_.next_deadline().value_or(TimePoint::max())});
  const auto consider = [&](const Retry& retry) {
    if (retry.has_failed()) next = std::min(next, retry.at());
  };
  if (const auto of_gpus = gpus_.next_deadline()) next = std::min(next, *of_gpus);
  consider(accepting_);
  if (!leaving_.empty() || !loose_lines_.empty()) consider(giving_back_);
  if (node_.goes_on()) consider(going_on_);
  return next;
}

void AsioServer::tick() {
  if (now_ >= stop_deadline_) done_ = true;
  if (accepting_.has_failed() && accepting_.may(now_) && !stopping_) accept_some();
  if (now_ >= idle_exit_) exit_if_idle();
  if (const auto deadline = node_.next_deadline(); deadline && *deadline <= now_) node_.tick(now_);
  try {
    gpus_.tick(now_);
  } catch (const std::exception&) {
    // There was no memory to say why a worker is ended. The next tick tries again.
  }
  flush_completions();
}

void AsioServer::set_polled(const ConnectionPtr& connection) {
  if (connection->polled || !connection->channel || connection->given_up) return;
  set_takes_turns(connection, &Connection::polled, true);
  connection->channel->set_polled(true);
}

void AsioServer::set_dirty(const ConnectionPtr& connection) {
  if (std::exchange(connection->dirty, true)) return;
  dirty_.push_back(connection);
}

void AsioServer::set_takes_turns(const ConnectionPtr& connection, bool Connection::*why, bool is_so) {
  if (is_so && connection->given_up) return;
  const bool before = connection->takes_turns();
  if (is_so && !before) rounds_.add(connection);  // this may throw for lack of memory
  (*connection).*why = is_so;
  if (before && !connection->takes_turns()) rounds_.remove(connection);
}

// ---- the end ----

void AsioServer::wait_for_idle_exit() noexcept {
  if (settings_.node.idle_exit_s <= 0 || stopping_) return;
  idle_exit_ =
      Clock::now() + std::chrono::duration_cast<Duration>(std::chrono::duration<double>(settings_.node.idle_exit_s));
}

void AsioServer::exit_if_idle() noexcept try {
  idle_exit_ = TimePoint::max();
  accept_some();  // a client may be connecting just now
  if (!connections_.empty()) return;
  if (newcomer_) return wait_for_idle_exit();
  stop("nobody was connected for a while");
} catch (const std::bad_alloc&) {
  wait_for_idle_exit();  // there is no memory even for the reason
}

/// The client that asked for the end is in the middle of a request. Its reply goes out first; the node is told in the
/// next turn.
void AsioServer::stop(std::string reason) noexcept {
  if (stopping_) return;
  stopping_ = true;
  reason_ = std::move(reason);
  log_info("ending: {}", reason_);
  error_code ignored;
  listener_.close(ignored);
  endpoint_.close();
  accepting_.succeeded();
  idle_exit_ = TimePoint::max();
  stop_deadline_ = Clock::now() + settings_.stop_timeout;
  shuts_down_ = true;
}

void AsioServer::shut_down() {
  node_.shut_down(reason_, Clock::now());
  flush_completions();
  for (auto next = connections_.begin(); next != connections_.end();) {
    const auto connection = (next++)->second;
    connection->closing = true;
    guarded(connection, [&] { flush_socket(connection); });
  }
  finish_stop();
}

void AsioServer::finish_stop() noexcept {
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
