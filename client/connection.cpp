#include "connection.hpp"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "fork.hpp"
#include "hold.hpp"
#include "requests.hpp"
#include "seat.hpp"
#include "start_daemon.hpp"

namespace muster::detail {

namespace wire = ipc::wire;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

namespace {

/// How often a waiter looks whether the daemon lives and whether it shall stop waiting.
constexpr auto look_up_interval = milliseconds(50);
/// After this long of pausing and yielding a waiter sleeps.
constexpr auto spin_max = std::chrono::microseconds(100);
/// A live daemon reads its rings within microseconds; one that doesn't for this long is as good as gone.
constexpr auto submit_timeout = std::chrono::seconds(30);

std::atomic<bool (*)()> interrupted_callback{nullptr};

bool interrupted() {
  const auto callback = interrupted_callback.load();
  return callback && callback();
}

}  // namespace

void Connection::set_interrupted(bool (*callback)()) { interrupted_callback = callback; }

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
      segments_(std::make_unique<Segments>([this](ipc::SegmentId id) { return map_segment(id); })),
      arena_(std::make_unique<Arena>(
          Arena::Source{
              [this](std::uint64_t bytes, std::chrono::nanoseconds timeout) { return lease_segment(bytes, timeout); },
              [this](ipc::SegmentId id) {
                static_cast<void>(ask(*this, wire::Body_Return, std::chrono::seconds(10),
                                      [&](auto& fbb) { return wire::CreateReturn(fbb, id.value).Union(); }));
              },
              [this] { drain(); }},
          welcome_.segment_bytes)) {}

Connection::~Connection() { forget_connection(this); }

Result<std::shared_ptr<Connection>> Connection::open_or_reuse(const ConnectOptions& options) {
  const std::string path = options.socket.empty() ? ipc::default_socket_path() : options.socket;
  if (auto found = existing(path)) return found;
  return open(options);
}

Error Connection::end_error() const {
  if (inherited_) return Error(Code::daemon_unavailable, "the connection was inherited by fork()", "connect again");
  const std::lock_guard lock(end_mutex_);
  return end_error_.value_or(Error(Code::daemon_unavailable, "the connection to the daemon is closed"));
}

// ---- opening ----

Result<std::shared_ptr<Connection>> Connection::attach(const std::string& path, const ConnectOptions& options) {
  auto greeted = greet(path, options.name);
  if (!greeted) return greeted.error();
  Start start;
  start.welcome = std::move(greeted->welcome);
  start.socket = std::move(greeted->socket);
  start.doorbell = std::move(greeted->doorbell);
  start.notify = std::move(greeted->notify);
  auto channel = ipc::Mapping::map(greeted->channel, ipc::channel_bytes, ipc::Access::read_write);
  if (!channel) return channel.error();
  // A forked child must not write into its parent's rings.
  ::madvise(channel->data(), channel->bytes(), MADV_DONTFORK);
  start.channel = std::move(*channel);
  std::shared_ptr<Connection> connection(new Connection(std::move(start)));
  remember_connection(connection);
  return connection;
}

Result<std::shared_ptr<Connection>> Connection::open(const ConnectOptions& options) {
  const std::string path = options.socket.empty() ? ipc::default_socket_path() : options.socket;
  const auto give_up = steady_clock::now() + options.timeout;
  for (;;) {
    auto attached = attach(path, options);
    if (attached || attached.error().code() != Code::daemon_unavailable) return attached;
    if (!options.start_daemon || steady_clock::now() >= give_up) return attached;
    // Nobody there, or one that is just ending: start the next.
    if (auto started = start_daemon(path, options, give_up); !started) return started.error();
  }
}

// ---- the socket ----

Result<ipc::Packet> Connection::request(const Build& build, std::span<const int> fds, std::chrono::nanoseconds timeout,
                                        While held) {
  if (!alive()) return end_error();
  std::uint64_t number = 0;
  {
    const std::lock_guard lock(reply_mutex_);
    number = ++last_request_;
    replies_.emplace(number, std::nullopt);
  }
  const auto frame = build(number);
  const auto until = steady_clock::now() + timeout;
  const auto give_up = [&](Error error) {
    const std::lock_guard lock(reply_mutex_);
    replies_.erase(number);
    return error;
  };
  std::optional<Error> unsent;
  {
    const std::lock_guard lock(send_mutex_);
    for (;;) {
      auto sent = ipc::send_packet(socket_, frame, fds);
      if (!sent) unsent = sent.error();
      if (!sent || *sent) break;
      if (steady_clock::now() > until) return give_up(Error(Code::timeout, "the daemon does not read its socket"));
      pollfd writable{socket_.get(), POLLOUT, 0};
      ::poll(&writable, 1, static_cast<int>(look_up_interval.count()));
    }
  }
  if (unsent) {
    receive_if_free();  // a daemon that ends says why
    return give_up(alive() ? *unsent : end_error());
  }
  for (;;) {
    std::unique_lock lock(reply_mutex_);
    if (auto found = replies_.find(number); found->second) {
      ipc::Packet packet = std::move(*found->second);
      replies_.erase(found);
      lock.unlock();
      const auto* frame_in = wire::GetFrame(packet.bytes.data());
      if (const auto* failure = frame_in->body_as_Failure()) {
        std::vector<int> ranks;
        if (failure->ranks()) ranks.assign(failure->ranks()->begin(), failure->ranks()->end());
        return Error(static_cast<Code>(failure->code()), failure->message() ? failure->message()->str() : "",
                     failure->hint() ? failure->hint()->str() : "", std::move(ranks));
      }
      return packet;
    }
    if (!alive()) {
      replies_.erase(number);
      return end_error();
    }
    if (steady_clock::now() > until) {
      replies_.erase(number);
      return Error(Code::timeout, "the daemon did not answer a request within its time", "look at: muster status");
    }
    if (held == While::unlocked) {
      lock.unlock();
      if (interrupted()) return give_up(Error(Code::timeout, "the wait for the daemon's answer was interrupted"));
      lock.lock();
      if (replies_.at(number)) continue;
    }
    if (receiving_) {
      replies_changed_.wait_for(lock, look_up_interval);
      continue;
    }
    receiving_ = true;
    lock.unlock();
    receive_replies(look_up_interval);
    lock.lock();
    receiving_ = false;
    replies_changed_.notify_all();
  }
}

bool Connection::receive_replies(milliseconds timeout) {
  pollfd readable{socket_.get(), POLLIN, 0};
  if (::poll(&readable, 1, static_cast<int>(timeout.count())) <= 0) return false;
  for (;;) {
    ipc::Packet packet;
    auto received = ipc::receive_packet(socket_, packet);
    if (!received) {
      end(received.error());
      return true;
    }
    if (*received == ipc::Received::would_block) return true;
    if (*received == ipc::Received::closed) {
      end(Error(Code::daemon_unavailable, "the daemon closed the connection", "start it again: muster start"));
      return true;
    }
    take_packet(std::move(packet));
  }
}

void Connection::take_packet(ipc::Packet packet) {
  const auto* frame = wire::GetFrame(packet.bytes.data());
  if (const auto* goodbye = frame->body_as_Goodbye()) {
    end(Error(static_cast<Code>(goodbye->code()), goodbye->reason() ? goodbye->reason()->str() : "",
              goodbye->hint() ? goodbye->hint()->str() : ""));
    return;
  }
  const std::lock_guard lock(reply_mutex_);
  if (auto found = replies_.find(frame->request()); found != replies_.end()) found->second = std::move(packet);
}

void Connection::end(const Error& error) {
  {
    const std::lock_guard lock(end_mutex_);
    if (!end_error_) end_error_ = error;
  }
  // What the daemon published before it ended still counts; then nothing more can come.
  while (drain()) {
  }
  ended_ = true;
  Callbacks callbacks;
  std::unordered_map<ipc::WorkId, std::shared_ptr<WorkState>> works;
  {
    const std::lock_guard lock(works_mutex_);
    works.swap(works_);
  }
  for (auto& [id, work] : works) finish(work, end_error(), {}, callbacks);
  drained_.notify_all();
  for (const auto& callback : callbacks) callback();
}

Result<LeasedSegment> Connection::lease_segment(std::uint64_t bytes, std::chrono::nanoseconds timeout) {
  const auto timeout_ms = std::chrono::duration_cast<milliseconds>(timeout).count();
  auto granted = ask(*this, wire::Body_Lease, timeout + std::chrono::seconds(10), [&](auto& fbb) {
    return wire::CreateLease(fbb, bytes,
                             static_cast<std::uint32_t>(std::clamp<std::int64_t>(timeout_ms, 0, 86'400'000)), false)
        .Union();
  });
  if (!granted) return granted.error();
  return map_lease(*this, std::move(*granted));
}

Result<SegmentHandle> Connection::map_segment(ipc::SegmentId segment) {
  auto packet = ask(*this, wire::Body_Map, std::chrono::seconds(10),
                    [&](auto& fbb) { return wire::CreateMap(fbb, segment.value).Union(); });
  if (!packet) return packet.error();
  const auto* body = wire::GetFrame(packet->bytes.data())->body_as_Segment();
  if (!body || packet->fds.size() != 1) return Error(Code::failed, "the daemon's answer to Map makes no sense");
  return SegmentHandle{std::move(packet->fds.front()), body->bytes()};
}

// ---- submissions ----

Result<void> Connection::submit(std::span<const Submission> records) {
  if (!alive()) return end_error();
  const std::lock_guard lock(submit_mutex_);
  // Idle clients cost no memory; those that work have no faults while they do.
  if (!std::exchange(channel_populated_, true)) channel_.populate();
  ipc::Backoff backoff;
  const auto give_up = steady_clock::now() + submit_timeout;
  for (const auto& record : records) {
    if (record.body.size() > ipc::record_bytes_max) {
      // The daemon reads the ring before a frame that was sent later, so the order stays.
      submissions_.publish();
      auto sent = ask(
          *this, wire::Body_Submit, submit_timeout,
          [&](auto& fbb) {
            auto body = fbb.CreateVector(reinterpret_cast<const std::uint8_t*>(record.body.data()), record.body.size());
            return wire::CreateSubmit(fbb, static_cast<std::uint16_t>(record.type), body).Union();
          },
          {}, While::locked);
      if (!sent) return sent.error();
      continue;
    }
    for (;;) {
      auto written = submissions_.try_write(static_cast<std::uint16_t>(record.type), record.body);
      if (!written) return written.error();
      if (*written) break;
      submissions_.publish();
      ipc::signal(doorbell_);
      backoff.step();
      if (!alive()) return end_error();
      if (backoff.rounds() % 1024 == 0) static_cast<void>(receive_if_free());
      if (steady_clock::now() > give_up) return Error(Code::timeout, "the daemon does not read its ring");
    }
  }
  submissions_.publish();
  if (header().daemon_polls.load(std::memory_order_seq_cst) == 0) ipc::signal(doorbell_);
  return {};
}

bool Connection::receive_if_free() {
  {
    const std::lock_guard lock(reply_mutex_);
    if (receiving_) return false;
    receiving_ = true;
  }
  const bool received = receive_replies(milliseconds(0));
  const std::lock_guard lock(reply_mutex_);
  receiving_ = false;
  replies_changed_.notify_all();
  return received;
}

void Connection::release(ipc::ObjectId object) {
  if (!alive()) return;
  Submission record{ipc::SubmissionType::release, {}};
  ipc::write(ipc::Release{{object}}, record.body);
  static_cast<void>(submit({&record, 1}));
}

void Connection::keep_up() {
  // A process that only deposits never waits, yet the daemon's news must not pile up.
  constexpr std::uint32_t seals_between = 64;
  if (last_object_.load(std::memory_order_relaxed) % seals_between == 0) drain();
}

ipc::ObjectId Connection::next_object() { return ipc::make_object_id(welcome_.client, ++last_object_); }

ipc::Capability Connection::random_capability() {
  constexpr std::size_t words = 128;
  const std::lock_guard lock(random_mutex_);
  if (random_.size() < 2) {
    random_.resize(words);
    if (::getrandom(random_.data(), words * sizeof(std::uint64_t), 0) < 0) random_.resize(0);
    random_.resize(words);
  }
  ipc::Capability capability;
  for (auto& word : capability.bits) {
    word = random_.back();
    random_.pop_back();
  }
  return capability;
}

void Connection::add_work(const std::shared_ptr<WorkState>& work) {
  const std::lock_guard lock(works_mutex_);
  works_.emplace(work->id, work);
}

void Connection::forget_work(ipc::WorkId work) {
  const std::lock_guard lock(works_mutex_);
  works_.erase(work);
}

void Connection::add_seat(const std::shared_ptr<Seat>& seat) {
  const std::lock_guard lock(works_mutex_);
  seats_[seat->id] = seat;
}

// ---- completions ----

bool Connection::drain() {
  Callbacks callbacks;
  bool any = false;
  {
    const std::lock_guard lock(drain_mutex_);
    for (;;) {
      auto record = completions_.next();
      if (!record || !*record) break;
      handle(**record, callbacks);
      any = true;
    }
    if (header().completions_wait.load(std::memory_order_seq_cst) != 0) ipc::signal(doorbell_);
  }
  if (any) drained_.notify_all();
  for (const auto& callback : callbacks) callback();
  return any;
}

void Connection::handle(const ipc::Record& record, Callbacks& callbacks) {
  const auto take = [this](ipc::WorkId id) {
    const std::lock_guard lock(works_mutex_);
    auto found = works_.find(id);
    auto work = found == works_.end() ? nullptr : found->second;
    if (work) works_.erase(found);
    return work;
  };
  switch (static_cast<ipc::CompletionType>(record.type)) {
    case ipc::CompletionType::done: {
      auto done = ipc::read_done(record.body);
      if (!done) return;
      Outcome outcome;
      outcome.contributors = static_cast<int>(done->contributors);
      for (auto& item : done->items) {
        auto hold = std::make_shared<Hold>(shared_from_this(), item.object, item.capability, std::move(item.manifest));
        hold->described = item.described;
        outcome.refs.emplace_back(std::shared_ptr<const Hold>(std::move(hold)));
      }
      done->items.clear();
      if (auto work = take(done->work)) finish(work, std::move(outcome), std::move(*done), callbacks);
      return;
    }
    case ipc::CompletionType::failed: {
      auto failed = ipc::read_failed(record.body);
      if (!failed) return;
      if (auto work = take(failed->work)) finish(work, failed->error, {}, callbacks);
      return;
    }
    case ipc::CompletionType::object_gone: {
      if (auto gone = ipc::read_object_gone(record.body)) arena_->object_gone(gone->object);
      return;
    }
    case ipc::CompletionType::seal_failed: {
      // The object never was: whoever uses it is told ObjectLost; its regions are free again.
      if (auto failed = ipc::read_seal_failed(record.body)) arena_->object_gone(failed->object);
      return;
    }
    case ipc::CompletionType::group_changed: {
      auto changed = ipc::read_group_changed(record.body);
      if (!changed) return;
      std::shared_ptr<Seat> seat;
      {
        const std::lock_guard lock(works_mutex_);
        if (auto found = seats_.find(changed->seat); found != seats_.end()) seat = found->second.lock();
      }
      if (!seat) return;
      const std::lock_guard lock(seat->mutex);
      seat->epoch = changed->epoch;
      seat->live.assign(changed->live.begin(), changed->live.end());
      return;
    }
  }
}

void Connection::finish(const std::shared_ptr<WorkState>& work, Result<Outcome> outcome, ipc::Done done,
                        Callbacks& callbacks) {
  if (work->seat) {
    const std::lock_guard lock(work->seat->mutex);
    --work->seat->in_flight;
  }
  work->done = std::move(done);
  work->outcome.emplace(std::move(outcome));
  const std::lock_guard lock(works_mutex_);
  work->over.store(true, std::memory_order_release);
  for (auto& callback : work->callbacks) callbacks.push_back(std::move(callback));
  work->callbacks.clear();
}

void Connection::on_done(const std::shared_ptr<WorkState>& work, std::function<void()> callback) {
  {
    const std::lock_guard lock(works_mutex_);
    if (!work->over.load(std::memory_order_acquire)) {
      work->callbacks.push_back(std::move(callback));
      return;
    }
  }
  callback();
}

bool Connection::wait(const std::function<bool()>& over, SteadyTime until) {
  ipc::Backoff backoff;
  SteadyTime spin_until = steady_clock::now() + spin_max;
  for (;;) {
    if (over()) return true;
    if (!alive() || steady_clock::now() >= until) return over();
    std::unique_lock role(role_mutex_);
    if (draining_) {
      drained_.wait_for(role, std::min<std::chrono::nanoseconds>(look_up_interval, until - steady_clock::now()));
      if (interrupted()) return over();
      continue;
    }
    draining_ = true;
    role.unlock();
    bool stop = false;
    while (!over() && alive()) {
      if (drain()) {
        spin_until = steady_clock::now() + spin_max;
        backoff.reset();
        continue;
      }
      const auto now = steady_clock::now();
      if (now >= until) break;
      if (now < spin_until) {
        backoff.step();
        continue;
      }
      sleep_for_completions(std::min(until, now + look_up_interval));
      static_cast<void>(receive_if_free());
      if (interrupted()) {
        stop = true;
        break;
      }
    }
    role.lock();
    draining_ = false;
    role.unlock();
    drained_.notify_all();
    if (stop) return over();
  }
}

void Connection::sleep_for_completions(SteadyTime until) {
  auto& sleeps = header().client_sleeps;
  sleeps.store(1, std::memory_order_seq_cst);
  if (completions_.empty()) ipc::futex_wait(sleeps, 1, until - steady_clock::now());
  sleeps.store(0, std::memory_order_seq_cst);
}

void Connection::poll() {
  if (!alive()) return;
  drain();
  if (!notify_wanted_) return;
  // Armed again before the last look, so that nothing that comes in between is missed.
  ipc::drain(notify_);
  header().notify_armed.store(1, std::memory_order_seq_cst);
  drain();
  static_cast<void>(receive_if_free());
}

Result<int> Connection::event_fd() {
  if (!alive()) return end_error();
  {
    const std::lock_guard lock(end_mutex_);
    if (!events_) {
      ipc::Fd events(::epoll_create1(EPOLL_CLOEXEC));
      epoll_event event{};
      event.events = EPOLLIN;
      for (const int fd : {notify_.get(), socket_.get()})
        if (!events || ::epoll_ctl(events.get(), EPOLL_CTL_ADD, fd, &event) != 0)
          return ipc::system_error(Code::failed, "can't watch the connection", errno);
      events_ = std::move(events);
    }
  }
  notify_wanted_ = true;
  header().notify_armed.store(1, std::memory_order_seq_cst);
  // Something may have come before it was armed.
  if (!completions_.empty()) ipc::signal(notify_);
  return events_.get();
}

}  // namespace muster::detail
