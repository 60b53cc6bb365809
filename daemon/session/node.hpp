// The node: all control state of one daemon, and what each event does to it. One thread, no clock, no socket:
// events come in through the public functions, effects go out through Outside. What a client sends is checked
// here or in what the node calls; nothing of it is believed.
#pragma once

#include <boost/intrusive/list.hpp>
#include <boost/intrusive/set.hpp>
#include <boost/unordered/unordered_flat_map.hpp>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <muster/ipc/fd.hpp>
#include <muster/ipc/ids.hpp>
#include <muster/ipc/records.hpp>
#include <muster/result.hpp>

#include "base/secret_hash.hpp"
#include "base/time.hpp"
#include "cluster/group.hpp"
#include "collective/muster.hpp"
#include "collective/plan.hpp"
#include "memory/admission.hpp"
#include "memory/ledger.hpp"
#include "memory/result_pool.hpp"
#include "memory/segment.hpp"
#include "session/clients.hpp"
#include "session/gathering.hpp"
#include "session/group_state.hpp"
#include "session/inspect.hpp"
#include "session/memory_pressure.hpp"
#include "session/node_settings.hpp"
#include "session/op_runs.hpp"
#include "session/outside.hpp"
#include "session/teller.hpp"
#include "session/turn.hpp"
#include "session/works.hpp"
#include "store/store.hpp"

namespace muster::ipc::wire {
struct Frame;
struct Lookup;
struct Submit;
}  // namespace muster::ipc::wire

namespace musterd {

using muster::ipc::world_size_max;
/// What a Lookup takes that waits for its object's maker, and a segment that waits for its seals.
inline constexpr std::uint64_t waiting_lookup_bytes = 256;
inline constexpr std::uint64_t waiting_seal_bytes = 1024;
/// What a life line takes in the kernel, the event loop and the store, as measured.
inline constexpr std::uint64_t lifeline_bytes = 6 << 10;
inline constexpr std::size_t name_bytes_max = 256;  ///< of groups and clients

class Node {
 public:
  Node(NodeSettings settings, Outside& outside);
  ~Node();

  // ---- events; each bears the time ----
  /// It is charged as one that only asks, also before it has said anything; refused if there is no room for that.
  [[nodiscard]] muster::Result<void> connected(ClientId client, Credentials credentials, TimePoint now);
  /// A verified frame.
  void frame(ClientId client, std::span<const std::byte> bytes, TimePoint now);
  /// A record from the client's ring, in private memory.
  void record(ClientId client, muster::ipc::SubmissionType type, std::span<const std::byte> body, TimePoint now);
  /// The client died or closed its connection; `how` is for messages: "died". Gives what its connection is charged
  /// with, to be held until it is given back.
  [[nodiscard]] ConnectionCharges disconnected(ClientId client, std::string how, TimePoint now);
  /// What the client sent can't be: tells it why and ends the connection.
  void violated(ClientId client, const muster::Error& error, TimePoint now);
  void lifeline_closed(ClientId heir, TimePoint now);
  /// Memory that was disposed of has been given back.
  void disposed(TimePoint now);
  void tick(TimePoint now);
  /// Whether something is left to do that was begun, as it takes long: then go_on(), as often as others allow.
  [[nodiscard]] bool goes_on() const {
    return store_.drops() || segments_.drops() || !leaving_.empty() || !unsettled_.empty() ||
           !unsettled_groups_.empty() || runs_.goes_on() || admission_.goes_on() || clients_.any_doomed() ||
           clients_.tries_again();
  }
  void go_on(TimePoint now);
  /// Every op fails and every client is told.
  void shut_down(const std::string& reason, TimePoint now);

  /// Makes `charge` one of so many bytes of the heap that the server keeps for the client. Nothing is refused for one
  /// that is gone: what it had goes next.
  [[nodiscard]] muster::Result<void> charge_heap(ClientId client, Charge& charge, std::uint64_t bytes);
  [[nodiscard]] std::optional<TimePoint> next_deadline() const;
  [[nodiscard]] std::size_t clients() const { return clients_.all().size(); }
  [[nodiscard]] std::size_t ops_in_flight() const { return works_.size(); }

 private:
  friend class NodeAudit;  ///< of the tests: adds up what is held
  /// A request that waits outside of the node, for a ring or a thread; held there by the function that ends it.
  struct Waiting : WaitingHook {
    Charge charge;
  };

  // node.cpp: the life of a client, and what follows every event
  void handle(Client& client, muster::ipc::SubmissionType type, std::span<const std::byte> body, TimePoint now);
  bool refuse_while_short(const Client& client, muster::ipc::SubmissionType type, std::span<const std::byte> body);
  /// Whatever happens: does it and what follows every event. What is thrown ends neither the daemon nor what it was
  /// about: the client that caused it, if any, is cut off, and what was begun goes on with go_on().
  template <class What>
  void event(ClientId cause, TimePoint now, What what) noexcept {
    now_ = now;
    ++events_;
    clients_.guarded([&] { what(); }, cause);
    clients_.guarded([&] { after_event(); }, cause);
    if (--events_ == 0) cut_off_doomed();
  }
  void cut_off_doomed() noexcept;
  void cut_off(ClientId client, const muster::Error& error);
  void after_event();
  ConnectionCharges forget(Client& client, const std::string& how, TimePoint now);

  // requests.cpp: frames
  void hello(Client& client, std::uint64_t request, const muster::ipc::wire::Frame& frame, TimePoint now);
  void welcome(Client& client, std::uint64_t request, bool rings);
  void refuse(ClientId client, std::uint64_t request, const muster::Error& error);
  void ask(Client& client, std::span<const std::byte> bytes, TimePoint now);
  void handle(Client& client, std::uint64_t request, const muster::ipc::wire::Frame& frame, TimePoint now);
  void lease(Client& client, std::uint64_t request, std::uint64_t bytes, Duration timeout, bool hard, TimePoint now);
  void submit(Client& client, std::uint64_t request, const muster::ipc::wire::Submit& part, TimePoint now);
  [[nodiscard]] muster::Result<void> take_part(Client& client, const muster::ipc::wire::Submit& part);
  [[nodiscard]] muster::Result<std::shared_ptr<Waiting>> charge_waiting(const Client& client, std::uint64_t bytes);
  void seal_rings(Client& client, std::uint64_t request);
  void run_sealing(ClientId client, std::uint64_t request, SegmentTable::Sealing sealing,
                   std::shared_ptr<Waiting> waiting);
  void seal_segment(const Client& client, std::uint64_t request,
                    const std::function<muster::Result<SegmentTable::Sealing>()>& begin);
  void map(Client& client, std::uint64_t request, SegmentId segment);
  void lookup(const Client& client, std::uint64_t request, const muster::ipc::wire::Lookup& asked);
  void describe(Client& client, std::uint64_t request, ObjectId object);
  void reply_object(ClientId client, std::uint64_t request, const Object& object);
  [[nodiscard]] muster::Result<void> has_room_to_describe(const Client& client, ObjectId object);
  void fork(Client& client, std::uint64_t request);
  void missing(Client& client, std::uint64_t request, WorkId work);

  void gather(TimePoint now);
  void inspect(const Client& client, std::uint64_t request, const muster::ipc::wire::Frame& frame, TimePoint now);

  // groups.cpp: seats and epochs
  void join(Client& client, std::uint64_t request, Group::Settings settings, int rank);
  [[nodiscard]] GroupPtr find_group(Group::Settings settings) const;
  [[nodiscard]] muster::Result<GroupPtr> make_group(Group::Settings settings, Payer maker);
  [[nodiscard]] muster::Result<void> check_seats(const Client& client, std::size_t more) const;
  [[nodiscard]] static muster::Result<void> check_owed(const GroupState& state, int rank);
  [[nodiscard]] muster::Result<Charge> charge_seat(Payer payer);
  [[nodiscard]] static Client::Seats::node_type make_seat(Client& client, SeatId seat, Client::Seated seated);
  [[nodiscard]] muster::Result<void> leave(Client& client, SeatId seat, const Loss& loss, TimePoint now);
  enum class AfterLoss : std::uint8_t {
    silence,  ///< the members know, or there are none
    tell,     ///< the members have to be told
  };
  [[nodiscard]] muster::Error with_holder(const muster::Error& error, const Client& asks,
                                          const std::optional<Seat>& taken) const;
  [[nodiscard]] AfterLoss lose_seat(SeatId seat, Client::Seated& seated, const Loss& loss, std::size_t& left,
                                    TimePoint now);
  void lose_all_seats(Client& client, const Loss& loss, TimePoint now);
  /// The seats of a client that is gone, as far as they have not been lost yet. Without any, members that are to be
  /// told of another change.
  struct Leaving {
    Client::Seats seats;
    Loss loss;
    std::map<GroupPtr, int> to_tell;  ///< the members from this rank on
  };
  using LeavingNode = std::list<Leaving>;  ///< of one
  void lose(Leaving& leaving, Client::Seats::iterator seat, std::size_t& left, TimePoint now);
  [[nodiscard]] bool lose_some(Leaving& leaving, TimePoint now);
  void lose_more(TimePoint now);
  bool lose_before_its_turn(const GroupPtr& state, int rank);
  [[nodiscard]] static std::vector<Action> lose_by_policy(GroupState& state, int rank, const Loss& loss,
                                                          std::size_t& left);
  void withdraw_waiting(const GroupPtr& state, int rank, std::size_t& left, TimePoint now);
  /// What a loss, or the end of an epoch, has not been told of yet.
  struct Unsettled {
    GroupPtr group;
    std::unique_ptr<Muster> ended;       ///< of an epoch that is over
    std::deque<Contribution> withdrawn;  ///< of a rank that left before they had a place
    muster::Error why;                   ///< how these fail
  };
  using UnsettledNode = std::list<Unsettled>;  ///< of one
  void settle_own(const GroupPtr& state, std::size_t& left, TimePoint now);
  void settle(UnsettledNode unsettled, std::size_t& left, TimePoint now);
  [[nodiscard]] bool settle_some(Unsettled& unsettled, std::size_t& left, TimePoint now);
  [[nodiscard]] bool settle_some(const GroupPtr& state, std::size_t& left, TimePoint now);
  void settle_more(TimePoint now);
  void take_place(const GroupPtr& state, std::size_t& left, TimePoint now);
  [[nodiscard]] Muster::Limits muster_limits() const;
  /// The next epoch of a group, and how the ops of the one that is over fail: all that may find no memory.
  struct NextEpoch {
    std::vector<int> members;
    LeavingNode telling;
    UnsettledNode ended;
    std::list<Unsettled> behind;  ///< for each rank that waits for its turn
  };
  [[nodiscard]] NextEpoch prepare_epoch(const GroupPtr& state, muster::Error why) const;
  [[nodiscard]] UnsettledNode end_epoch(const GroupPtr& state, muster::Error why) const;
  void begin_epoch(const GroupPtr& state, NextEpoch next, TimePoint now);
  [[nodiscard]] static muster::ipc::Done epoch_of(const GroupState& state);
  void watch(GroupState& state, std::optional<TimePoint> deadline);
  void expire_groups(TimePoint now);
  [[nodiscard]] Whereabouts locate(const GroupState& state, int rank, std::size_t& looks_left) const;
  void expire_early(const GroupPtr& state, TimePoint now, std::size_t& left);
  void expire_early(GroupState& state, Contribution& contribution, const std::vector<int>& members);
  void remove_group(const GroupPtr& state);
  [[nodiscard]] static LeavingNode members_to_tell(const GroupPtr& state);
  void tell_members(LeavingNode telling, TimePoint now) noexcept;
  [[nodiscard]] int tell_members(const GroupPtr& state, int first, std::size_t& left) noexcept;
  [[nodiscard]] static muster::ipc::GroupChanged change_of(const GroupState& state);
  struct Child {
    GroupPtr group;
    std::vector<const Contribution*> members;  ///< by rank
    std::vector<Charge> seats;                 ///< by rank
  };
  [[nodiscard]] muster::Result<std::vector<Child>> make_children(const Group::Settings& parent, const Op& op);
  void split(const GroupPtr& state, const Op& op);
  void seat_in_children(std::vector<Child>& children, const Op& op);
  void seat_in_child(const GroupPtr& child, const Contribution& contribution, int rank, Charge charge);
  void reform(const GroupPtr& state, const Op& op, TimePoint now);

  // ops.cpp: from contribution to outcome
  void seal(Client& client, std::span<const std::byte> body, TimePoint now);
  void release(Client& client, std::span<const std::byte> body);
  void contribute(Client& client, std::span<const std::byte> body, TimePoint now);
  void combine(Client& client, std::span<const std::byte> body, TimePoint now);
  [[nodiscard]] std::vector<Action> muster_refs(const muster::ipc::Combine& combine, Inputs inputs, Ticket ticket,
                                                Charge charge, TimePoint now);
  [[nodiscard]] muster::Result<Inputs> inputs_of(const Client& client, std::span<const ObjectId> objects) const;
  [[nodiscard]] muster::Result<Inputs> inputs_of(const Client& client, const muster::ipc::Contribute& contribute,
                                                 const muster::Result<Charge>& charge) const;
  [[nodiscard]] bool pay_for_failure(const Client& client, const GroupPtr& state, Contribution& contribution);
  void give_up_seat(Client& client, const muster::ipc::Contribute& contribute, const muster::Error& error,
                    TimePoint now);
  [[nodiscard]] muster::Result<Charge> admit(const Client& client, std::uint64_t heap);
  void muster(const GroupPtr& state, Contribution&& contribution, TimePoint now);
  /// What `decide(actions)` decides is done, also if it throws before it has decided all.
  template <class Decide>
  void decide(const GroupPtr& state, TimePoint now, Decide decide) {
    std::vector<Action> actions;
    try {
      decide(actions);
    } catch (const std::exception&) {
      perform(state, actions, now);
      throw;
    }
    perform(state, actions, now);
  }
  void perform(const GroupPtr& state, std::span<Action> actions, TimePoint now) noexcept;
  [[nodiscard]] UserId payer_of(const GroupState& state, const Op& op) const;
  [[nodiscard]] Payer payer_of(const Contribution& contribution) const;
  void start(const GroupPtr& state, const OpPtr& op, TimePoint now) noexcept;

  NodeSettings settings_;
  Outside& outside_;
  Ledger ledger_;
  SegmentTable segments_;
  ResultPool results_;
  Store store_;
  Admission admission_;
  Clients clients_;
  Teller teller_;
  MemoryPressure pressure_;
  Works works_;
  Groups groups_;
  OpCounts counts_;
  Inspect inspect_;
  OpRuns runs_;
  Gathering gathering_;
  struct WatchedUntil {
    using type = TimePoint;
    const type& operator()(const GroupState& state) const { return state.watched; }
  };
  /// When to look at a group's deadlines: none of its ops is due earlier. The op that had this deadline may be over, so
  /// an op that ends quickly costs nothing here.
  boost::intrusive::multiset<GroupState, boost::intrusive::base_hook<GroupByDeadline>,
                             boost::intrusive::key_of_value<WatchedUntil>, boost::intrusive::constant_time_size<false>>
      group_deadlines_;
  std::list<Leaving> leaving_;
  std::list<Unsettled> unsettled_;
  /// Those of which some ops have to learn of losses, or to take their places.
  boost::intrusive::list<GroupState, boost::intrusive::base_hook<UnsettledHook>,
                         boost::intrusive::constant_time_size<false>>
      unsettled_groups_;
  boost::intrusive::list<Waiting, boost::intrusive::base_hook<WaitingHook>, boost::intrusive::constant_time_size<false>>
      waiting_outside_;
  std::vector<std::byte> completion_;  ///< buffers that are used again and again
  std::uint32_t last_seat_ = 0;
  std::uint64_t last_split_ = 0;
  std::size_t disposals_ = 0;  ///< segments and descriptions of objects whose memory is on its way back
  bool stopping_ = false;
  int events_ = 0;  ///< within each other
  TimePoint started_;
  TimePoint now_;
};

}  // namespace musterd
