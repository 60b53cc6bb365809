#include "session/node.hpp"

#include <utility>

#include <fmt/format.h>

#include "base/heap_reserve.hpp"
#include "session/frames.hpp"
#include "session/turn.hpp"

namespace musterd {

using muster::Code;
using muster::Error;
namespace ipc = muster::ipc;

Node::Node(NodeSettings settings, Outside& outside, Backings backings)
    : settings_(std::move(settings)),
      outside_(outside),
      ledger_(settings_.quota),
      segments_(ledger_, std::move(backings),
                {.mapped = [this](const SegmentMemoryPtr& memory) { outside_.populate(memory); },
                 .dispose =
                     [this](UserId user, Remains remains, std::function<void()> then) {
                       std::function<void()> follows = [this, then = std::move(then)] {
                         --disposals_;
                         then();
                       };
                       ++disposals_;
                       outside_.dispose(user, std::move(remains), std::move(follows));
                     },
                 .over = [this] { event({}, now_, [] {}); },
                 .untold = [this](ClientId owner) { clients_.doom(owner); }}),
      results_(segments_, settings_.segments_about),
      store_(ledger_, segments_, Store::Limits{.pickle_lease = settings_.pickle_lease},
             outside_.random_capability().bits[0] | 1),
      history_(ledger_, {settings_.quota.per_user[Resource::memory] / 4, settings_.quota.per_user[Resource::heap] / 8}),
      admission_(settings_.memory_waiters_max, effort_of_turn),
      clients_(ledger_, settings_.user, settings_.host),
      teller_(clients_, outside_),
      pressure_({settings_.quota.total[Resource::memory], settings_.pickle_lease},
                {ledger_, segments_, results_, store_, history_, admission_, clients_, teller_, outside_}),
      works_(clients_, teller_, store_, outside_, outside_.random_capability().bits[0] | 1),
      // A correct client keeps to in_flight_max. Twice that leaves room for threads that race; a client with more is
      // broken.
      groups_(ledger_,
              {settings_.seats_max, {.in_flight_max = std::size_t{2} * settings_.in_flight_max, .history_max = 4096}}),
      inspect_({settings_, ledger_, segments_, store_, admission_, clients_, works_, groups_.all(), counts_}),
      giver_(clients_, works_, store_),
      retries_(giver_, works_),
      runs_({settings_, ledger_, results_, store_, admission_, clients_, works_, pressure_, history_, giver_, retries_,
             outside_, counts_, [this](FunctionRef what) { event({}, now_, what); }, now_}),
      group_ops_({ledger_, store_, admission_, clients_, teller_, works_, groups_, runs_, retries_, outside_, counts_,
                  [this](FunctionRef what) { event({}, now_, what); }, stopping_, now_}),
      combines_({ledger_, store_, teller_, works_, runs_, counts_, groups_.muster_limits(), stopping_}),
      records_({segments_, store_, clients_, teller_, pressure_, group_ops_, combines_}),
      requests_({settings_, ledger_, segments_, results_, store_, admission_, clients_, teller_, pressure_, works_,
                 inspect_, group_ops_, records_, outside_,
                 [this](ClientId client, FunctionRef what) { event(client, now_, what); }, disposals_, started_, now_}),
      gathering_({segments_, results_, store_, clients_}) {}

Node::~Node() {
  // Ops and works hold objects, which hold regions of the pool.
  groups_.clear();
}

muster::Result<void> Node::charge_heap(ClientId id, Charge& charge, std::uint64_t bytes) {
  const Client* client = clients_.find(id);
  if (!client) return {};
  return ledger_.resize(charge, client->payer(), bytes);
}

muster::Result<void> Node::connected(ClientId client, Credentials credentials, TimePoint now) {
  if (started_ == TimePoint{}) started_ = now;
  return pressure_.try_at_once(credentials.user, 0, [&] { return clients_.add(client, credentials, now); });
}

void Node::cut_off_doomed() noexcept {
  while (const auto doomed = clients_.take_doomed()) {
    try {
      cut_off(*doomed, no_heap());
      after_event();
    } catch (const std::exception&) {
      clients_.doom(*doomed);
      clients_.set_tries_again(true);
      return;  // the next event tries again
    }
  }
}

void Node::record(ClientId id, ipc::SubmissionType type, std::span<const std::byte> body, TimePoint now) {
  Client* client = clients_.find(id);
  if (!client) return;
  client->last_heard = now;
  event(id, now, [&] {
    if (auto handled = records_.handle(*client, type, body, now); !handled) cut_off(id, handled.error());
  });
}

void Node::frame(ClientId id, std::span<const std::byte> bytes, TimePoint now) {
  Client* client = clients_.find(id);
  if (!client) return;
  client->last_heard = now;
  event(id, now, [&] {
    if (auto handled = requests_.handle(*client, bytes, now); !handled) cut_off(id, handled.error());
  });
}

ConnectionCharges Node::disconnected(ClientId id, std::string how, TimePoint now) {
  ConnectionCharges charges;
  event(id, now, [&] {
    if (Client* client = clients_.find(id)) charges = forget(*client, how, now);
  });
  return charges;
}

void Node::disposed(TimePoint now) {
  event({}, now, [] {});
}

void Node::violated(ClientId id, const Error& error, TimePoint now) {
  event(id, now, [&] { cut_off(id, error); });
}

void Node::cut_off(ClientId id, const Error& error) {
  Client* client = clients_.find(id);
  if (!client) return;
  outside_.send(id, frames::goodbye(error), {});
  const std::string why = fmt::format("{}: {}", clients_.label(id), error.describe());
  auto charges = forget(*client, "broke the protocol", now_);
  outside_.close(id, why, std::move(charges));
}

/// If it throws, it is called again: see cut_off_doomed().
ConnectionCharges Node::forget(Client& client, const std::string& how, TimePoint now) {
  const ClientId id = client.id;
  client.gone = true;
  // Before anything else: no op may begin or be done with such bytes from here on.
  segments_.lose_left_by(id);
  group_ops_.lose_all_seats(client, {how, clients_.process_text(client)}, now);
  admission_.forget(id);
  store_.holds().drop_client(id);
  store_.tokens().drop_client(id);
  segments_.drop_client(id);
  ConnectionCharges charges{std::move(client.descriptors), std::move(client.rings)};
  clients_.erase(id);
  clients_.guarded([&] { runs_.drop_unwanted(); });  // the client is forgotten even if this throws
  return charges;
}

void Node::lifeline_closed(ClientId heir, TimePoint now) {
  event({}, now, [&] {
    clients_.erase_lifeline(heir);
    store_.holds().drop_client(heir);
  });
}

void Node::go_on(TimePoint now) {
  clients_.set_tries_again(false);
  event({}, now, [&] {
    store_.holds().drop_more();
    store_.tokens().go_on();
    segments_.drop_more();
    group_ops_.go_on(now);
    runs_.go_on();
    history_.go_on();
    if (admission_.goes_on()) admission_.go_on();
  });
}

void Node::tick(TimePoint now) {
  event({}, now, [&] {
    store_.pickles().expire(now);
    admission_.expire(now);
    clients_.guarded([&] { group_ops_.expire(now); });
    clients_.guarded([&] { runs_.expire(now); });
    clients_.guarded([&] { requests_.expire(now); });
    gather(now);
  });
  clients_.guarded([&] { pressure_.tick(now); });
}

void Node::gather(TimePoint now) {
  gathering_.begin(now, [this](std::function<void()> copy) {
    outside_.run_blocking({}, std::move(copy), [this] { event({}, now_, [&] { gathering_.finish(now_); }); });
  });
}

std::optional<TimePoint> Node::next_deadline() const {
  auto earliest = store_.pickles().next_deadline();
  const auto consider = [&](std::optional<TimePoint> time) {
    if (time && (!earliest || *time < *earliest)) earliest = time;
  };
  consider(admission_.next_deadline());
  consider(pressure_.next_deadline());
  consider(gathering_.next_deadline());
  consider(groups_.next_deadline());
  consider(runs_.next_deadline());
  consider(requests_.next_deadline());
  return earliest;
}

void Node::after_event() {
  pressure_.serve(now_);
  // Without any client no results come, so nothing is kept for them.
  if (clients_.empty()) results_.trim();
  while (const auto gone = store_.take_gone())
    teller_.tell(gone->maker, ipc::CompletionType::object_gone, ipc::ObjectGone{gone->id});
  for (const auto& [segment, readers] : segments_.take_ended())
    for (const auto reader : readers)
      teller_.tell(reader, ipc::CompletionType::segment_gone, ipc::SegmentGone{segment});
  for (const auto& [segment, owner] : segments_.take_over())
    teller_.tell(owner, ipc::CompletionType::in_place_over, ipc::InPlaceOver{segment});
  pressure_.ask_clients(now_);
  gathering_.notice(now_);
}

void Node::shut_down(const std::string& reason, TimePoint now) {
  stopping_ = true;
  gathering_.stop();
  event({}, now, [&] {
    const Error error(Code::daemon_unavailable, "the daemon ended: " + reason, "start it again: muster start");
    group_ops_.stop(error, now);
    runs_.give_all();
    clients_.guarded([&] { after_event(); });
    for (const auto& [id, client] : clients_.all())
      clients_.guarded([&, &to = id] { outside_.send(to, frames::goodbye(error), {}); });
  });
}

}  // namespace musterd
