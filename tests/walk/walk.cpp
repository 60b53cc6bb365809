#include "walk/walk.hpp"

#include <csignal>

#include <array>
#include <utility>

#include <muster/ipc/ring.hpp>

namespace musterd::testing {

namespace {

constexpr Duration for_ever = std::chrono::hours(25);

/// The walk that runs, for an assert that ends the process.
const Walk* running_walk = nullptr;

void print_steps(const Walk& walk) {
  for (const auto& step : walk.steps()) std::fprintf(stderr, "  %s\n", step.c_str());
}

/// Prints the steps when a signal ends the process, and leaves the rest to the previous handler.
class StepsOnSignal {
 public:
  explicit StepsOnSignal(const Walk& walk) {
    running_walk = &walk;
    for (std::size_t i = 0; i < signals.size(); ++i) {
      struct sigaction action {};
      action.sa_handler = print;
      ::sigaction(signals[i], &action, &before[i]);
    }
  }
  ~StepsOnSignal() {
    restore();
    running_walk = nullptr;
  }
  StepsOnSignal(const StepsOnSignal&) = delete;
  StepsOnSignal& operator=(const StepsOnSignal&) = delete;

 private:
  static constexpr std::array signals{SIGABRT, SIGSEGV, SIGFPE};
  static inline std::array<struct sigaction, signals.size()> before{};

  static void restore() {
    for (std::size_t i = 0; i < signals.size(); ++i) ::sigaction(signals[i], &before[i], nullptr);
  }
  static void print(int signal) {
    restore();
    std::fprintf(stderr, "signal %d ends the walk after these steps:\n", signal);
    if (running_walk) print_steps(*running_walk);
    // All other signals come again by themselves.
    if (signal == SIGABRT) ::raise(signal);
  }
};

}  // namespace

NodeSettings Walk::settings(Choices& choices) {
  NodeSettings settings;
  settings.version = "walk";
  settings.incarnation = 7;
  settings.user = 1000;
  const std::uint64_t memory = 6 * ipc::channel_bytes + (std::uint64_t{1} << 18) * (1 + choices.below(8));
  constexpr std::uint64_t heap = 256 << 10;
  settings.quota.total = {memory, 300, 100, 4096, 16, heap, 60};
  settings.quota.per_user = {memory - ipc::channel_bytes, 200, 80, 4096, 8, heap / 4 * 3, 45};
  settings.quota.per_client = {memory / 2, 80, 40, 24, 8, heap / 2, 30};
  settings.quota.total[memory_of(walked_gpu)] = 1 << 20;
  settings.quota.per_user[memory_of(walked_gpu)] = 768 << 10;
  settings.quota.per_client[memory_of(walked_gpu)] = 512 << 10;
  settings.quota.total[Resource::in_place] = 6;
  settings.quota.per_user[Resource::in_place] = 5;
  settings.quota.per_client[Resource::in_place] = 3;
  settings.quota.reserve_bytes = memory / 4 * choices.below(2);
  settings.in_flight_max = 4;
  settings.requests_max = 32;
  settings.seats_max = 6;
  settings.memory_waiters_max = 4;
  settings.segments_of_turn = 1;
  return settings;
}

Walk::Walk(std::span<const std::uint8_t> bytes, Reached& reached)
    : choices_(bytes), reached_(reached), gpu_memory_([this] { return choices_.once_in(2); }) {
  auto made = settings(choices_);
  salt_ = choices_.byte();
  Outside& outside = *this;
  Backings backings(backing());
  backings.add(walked_gpu, gpu_memory_);
  node_ = std::make_unique<Node>(std::move(made), outside, std::move(backings));
}

Walk::~Walk() {
  // Drops the lanes' jobs before the node ends, as the daemon does.
  lane_.jobs.clear();
}

std::span<const Walk::Step> Walk::all_steps() {
  static constexpr Step all[]{
      {&Walk::contribute_one, 28},
      {&Walk::round, 29},
      {&Walk::reform_round, 6},
      {&Walk::join, 24},
      {&Walk::connect, 8},
      {&Walk::late_hello, 3},
      {&Walk::die, 7},
      {&Walk::leave, 5},
      {&Walk::lease, 10},
      {&Walk::leave_in_place, 3},
      {&Walk::mapped, 6},
      {&Walk::give_back, 4},
      {&Walk::hand_over, 2},
      {&Walk::map, 4},
      {&Walk::unmap, 3},
      {&Walk::seal_some, 6},
      {&Walk::seal_badly, 3},
      {&Walk::seal_part, 3},
      {&Walk::release, 12},
      {&Walk::release_badly, 1},
      {&Walk::pin, 3},
      {&Walk::describe, 2},
      {&Walk::lookup, 5},
      {&Walk::token, 4},
      {&Walk::fork, 3},
      {&Walk::lifeline_closes, 3},
      {&Walk::query, 4},
      {&Walk::bad_request, 3},
      {&Walk::nonsense, 1},
      {&Walk::time_passes, 12},
      {&Walk::job_ends, 12},
      {&Walk::gpu_makes_memory, 6},
      {&Walk::decision_comes, 12},
      {&Walk::ring_is_read, 8},
      {&Walk::combine, 10},
      {&Walk::stops, 1},
  };
  constexpr auto total = [] {
    unsigned sum = 0;
    for (const Step& step : all) sum += step.weight;
    return sum;
  };
  static_assert(total() == 256, "there must be one for each byte, or the last ones never come");
  return all;
}

void Walk::step() {
  const auto steps = all_steps();
  unsigned chosen = choices_.byte();
  for (const Step& step : steps) {
    if (chosen < step.weight) return (this->*step.run)();
    chosen -= step.weight;
  }
}

/// Goes on with work that the node has begun and not finished, in pieces.
void Walk::go_on() {
  if (node_->goes_on()) node_->go_on(now_);
}

void Walk::run() {
  constexpr int steps_max = 1000;
  for (int i = 0; i < 3; ++i) connect();
  for (int i = 0; i < steps_max && !choices_.empty(); ++i) {
    step();
    if (choices_.once_in(2)) go_on();
    check();
  }
  finale();
}

void Walk::finale() {
  say("finale");
  std::vector<ClientId> ids;
  for (const auto& [id, peer] : peers_) ids.push_back(id);
  for (const auto id : ids) read_ring(id);
  finish_lookups();
  check();
  // Half of the walks end with ops that wait and jobs that run.
  if (salt_ % 2 == 0) check_all_settled();
  everybody_goes();
  check_nothing_is_left();
}

void Walk::check_all_settled() {
  finish_jobs();
  now_ += for_ever;
  say("a day passes");
  node_->tick(now_);
  check_deadlines();
  while (node_->goes_on() || !lane_.jobs.empty() || !decider_.asked.empty()) {
    go_on();
    finish_jobs();
  }
  check();
  for (const auto& [id, peer] : peers_) {
    for (const auto& [number, work] : peer.works)
      if (work.outcome.empty())
        broken("work " + std::to_string(number) + " of client " + std::to_string(id.value) + " (" +
               std::string(ipc::name(work.kind)) + ") never got an outcome");
    for (const auto& [request, asked] : peer.asked)
      broken("request " + std::to_string(request) + " of client " + std::to_string(id.value) + " (" +
             wire::EnumNameBody(asked.what) + ") was never answered");
  }
  check();
}

void Walk::everybody_goes() {
  while (!peers_.empty()) {
    auto last = std::next(peers_.begin(), static_cast<std::ptrdiff_t>(salt_ % peers_.size()));
    const ClientId id = last->first;
    say("client " + std::to_string(id.value) + " dies at the end");
    last->second.dying = true;
    static_cast<void>(node_->disconnected(id, "died", now_));
    node_->disposed(now_);  // its rings are unmapped
    forget(id);
    check();
  }
  for (const auto heir : std::exchange(lifelines_, {})) node_->lifeline_closed(heir, now_);
  finish_jobs();
  now_ += for_ever;
  node_->tick(now_);
  // An op may begin after its last rank has gone, because its memory was still being made.
  while (node_->goes_on() || !lane_.jobs.empty() || !decider_.asked.empty()) {
    go_on();
    finish_jobs();
  }
  finish_copies();
  check();
}

/// Each job may lead to others.
void Walk::finish_jobs() {
  finish_copies();
  while (!lane_.jobs.empty() || !decider_.asked.empty()) {
    finish_decisions();
    while (!lane_.jobs.empty()) job_ends();
  }
}

void Walk::finish_decisions() {
  while (!decider_.asked.empty()) decision_comes();
}

void Walk::check_nothing_is_left() {
  while (gpu_memory_.close_one()) {
  }
  for (const auto& left : NodeAudit(*node_).left_over()) broken("left when everybody is gone: " + left);
  if (node_->next_deadline()) broken("a deadline is left when everybody is gone");
  check();
}

void Walk::send(ClientId client, std::span<const std::byte> frame, std::span<const int> fds) {
  const auto found = peers_.find(client);
  if (found == peers_.end()) return broken("a frame for client " + std::to_string(client.value) + ", which is gone");
  answered(found->second, *wire::GetFrame(frame.data()), fds);
}

muster::Result<void> Walk::welcome(ClientId client, std::span<const std::byte> frame) {
  send(client, frame, {});
  return {};
}

SegmentTable::Sealing Walk::seal_rings(ClientId client) {
  if (!peers_.contains(client)) broken("the rings of client " + std::to_string(client.value) + ", which is gone");
  return {[] {}, [] { return muster::Result<void>(); }};
}

void Walk::greeted(ClientId client) {
  if (!peers_.contains(client)) broken("client " + std::to_string(client.value) + ", which is gone, was greeted");
}

void Walk::complete(ClientId client, ipc::CompletionType type, std::span<const std::byte> body) {
  const auto found = peers_.find(client);
  const auto what = std::string(name(type)) + " for client " + std::to_string(client.value);
  if (found == peers_.end()) return broken(what + ", which is gone");
  Peer& peer = found->second;
  if (!peer.greeted) return broken(what + ", which was not welcomed");
  if (peer.dying) return broken(what + ", which is being forgotten");
  reached_.note("told " + std::string(name(type)));
  switch (type) {
    case ipc::CompletionType::done: return told_done(peer, ipc::read_done(body).value());
    case ipc::CompletionType::failed: return told_failed(peer, ipc::read_failed(body).value());
    case ipc::CompletionType::object_gone: {
      const auto object = ipc::read_object_gone(body).value().object;
      if (peer.holds.contains(object)) broken(what + ", which holds it");
      if (!forget_sealed(peer, object) && !peer.refused.contains(object)) broken(what + ", which has no such object");
      return;
    }
    case ipc::CompletionType::seal_failed: {
      const auto failed = ipc::read_seal_failed(body).value();
      forget_sealed(peer, failed.object);
      peer.refused.insert(failed.object);
      peer.holds.erase(failed.object);
      reached_.note("seal -> " + std::string(muster::name(failed.error.code())));
      return;
    }
    case ipc::CompletionType::group_changed: {
      const auto changed = ipc::read_group_changed(body).value();
      const auto seat = peer.seats.find(changed.seat);
      if (seat != peer.seats.end()) seat->second.epoch = changed.epoch;
      else if (!peer.dying) broken(what + " of a seat that it doesn't hold");
      return;
    }
    case ipc::CompletionType::segment_gone: {
      const auto segment = ipc::read_segment_gone(body).value().segment;
      if (peer.readable.erase(segment) == 0) return broken(what + ", which never read it");
      peer.ended.insert(segment);
      return;
    }
    case ipc::CompletionType::in_place_over: {
      const auto segment = ipc::read_in_place_over(body).value().segment;
      // A lease that was refused too late is over, too.
      if (peer.in_place.erase(segment) == 0) reached_.note("in_place_over of what was refused");
      return;
    }
    case ipc::CompletionType::memory_wanted: return;
  }
}

bool Walk::forget_sealed(Peer& peer, ipc::ObjectId object) {
  const auto sealed = peer.sealed.find(object);
  if (sealed == peer.sealed.end()) return false;
  for (auto& lease : peer.leases) lease.live -= static_cast<std::size_t>(lease.id == sealed->second);
  peer.sealed.erase(sealed);
  return true;
}

void Walk::run_blocking(ClientId client, std::function<void()> work, std::function<void()> then) {
  work();
  if (client) return then();
  reached_.note("objects of a dead client are copied");
  copied_.push_back(std::move(then));
  if (choices_.once_in(2)) finish_copies();
}

void Walk::finish_copies() {
  for (auto& then : std::exchange(copied_, {})) then();
}

void Walk::dispose(UserId, Remains remains, std::function<void()> then) {
  remains = {};
  then();
}

void Walk::close(ClientId client, const std::string& why, ConnectionCharges) {
  say("  the node closes client " + std::to_string(client.value) + ": " + why);
  reached_.note("closed");
  forget(client);
}

bool Walk::after_ring(ClientId client, ClientId /*asks*/, std::function<void()> then) {
  const auto peer = peers_.find(client);
  if (peer == peers_.end() || peer->second.ring.empty()) {
    reached_.note("a lookup finds its maker's ring read");
    return true;
  }
  after_rings_.emplace_back(client, std::move(then));
  return false;
}

/// Finishes the lookups that wait for rings to be read.
void Walk::finish_lookups() {
  while (!after_rings_.empty()) {
    const auto [client, then] = std::move(after_rings_.front());
    after_rings_.pop_front();
    reached_.note("a lookup waits for its maker's ring");
    read_ring(client);
    then();
  }
}

muster::Result<ipc::Fd> Walk::watch_lifeline(ClientId /*client*/, ClientId heir) {
  last_heir_ = heir;
  return ipc::create_eventfd();
}

void Walk::stop(std::string) { stop_asked_ = true; }

std::string run_walk(std::span<const std::uint8_t> bytes, Reached& reached) {
  Walk walk(bytes, reached);
  const StepsOnSignal on_signal(walk);
  try {
    walk.run();
  } catch (const std::exception& error) {
    print_steps(walk);
    return error.what();
  }
  return {};
}

}  // namespace musterd::testing
