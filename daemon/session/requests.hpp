// Handles the frames of a client, which are for what needs a reply or a descriptor, or is rare. Each request is
// answered once.
#pragma once

#include <boost/intrusive/list.hpp>
#include <boost/intrusive/set.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>

#include <muster/ipc/ids.hpp>
#include <muster/result.hpp>

#include "base/function_ref.hpp"
#include "base/time.hpp"
#include "memory/admission.hpp"
#include "memory/ledger.hpp"
#include "memory/result_pool.hpp"
#include "memory/segment_table.hpp"
#include "session/clients.hpp"
#include "session/group_ops.hpp"
#include "session/inspect.hpp"
#include "session/memory_pressure.hpp"
#include "session/node_settings.hpp"
#include "session/outside.hpp"
#include "session/records.hpp"
#include "session/running_op.hpp"
#include "session/teller.hpp"
#include "session/works.hpp"
#include "store/store.hpp"

namespace muster::ipc::wire {
struct Frame;
struct Join;
struct LeaveInPlace;
struct Lookup;
struct Stop;
struct Submit;
}  // namespace muster::ipc::wire

namespace musterd {

/// How many bytes a Lookup takes that waits for its object's maker, and a segment that waits for its seals.
inline constexpr std::uint64_t waiting_lookup_bytes = 256;
inline constexpr std::uint64_t waiting_seal_bytes = 1024;  ///< also of one whose memory is being made
/// How many bytes a life line takes in the kernel, the event loop and the store, as measured.
inline constexpr std::uint64_t lifeline_bytes = 6 << 10;

class Requests {
 public:
  struct Parts {
    const NodeSettings& settings;
    Ledger& ledger;
    SegmentTable& segments;
    ResultPool& results;
    Store& store;
    Admission& admission;
    Clients& clients;
    Teller& teller;
    MemoryPressure& pressure;
    const Works& works;
    const Inspect& inspect;
    GroupOps& group_ops;
    Records& records;
    Outside& outside;
    /// Runs a call from outside, for a client, as an event of the node.
    std::function<void(ClientId, FunctionRef)> event;
    const std::size_t& disposals;  ///< segments and descriptions of objects whose memory is being given back
    const TimePoint& started;
    const TimePoint& now;  ///< the time of the event that runs
  };
  explicit Requests(Parts parts) : parts_(std::move(parts)) {}

  /// `bytes` is a verified frame. An error means that the client broke the protocol and has to be cut off.
  [[nodiscard]] muster::Result<void> handle(Client& client, std::span<const std::byte> bytes, TimePoint now);
  /// Refuses leases whose memory was not made in time. If many are late at once, this refuses some of them.
  void expire(TimePoint now);
  [[nodiscard]] std::optional<TimePoint> next_deadline() const;

 private:
  friend class NodeAudit;  ///< in the tests; adds up what is held
  /// A request that waits outside of the node, for a ring or a thread. The function that ends it holds this.
  struct Waiting : WaitingHook {
    Charge charge;
  };
  /// A lease whose memory is being made. The function that hears of the memory holds this.
  struct Coming : Waiting, DueHook {
    ClientId client;
    std::uint64_t request = 0;
    std::weak_ptr<Segment> segment;
    TimePoint deadline;
  };
  struct DeadlineOf {
    using type = TimePoint;
    const type& operator()(const Coming& coming) const { return coming.deadline; }
  };

  void answer(Client& client, std::uint64_t request, const muster::ipc::wire::Frame& frame, TimePoint now);
  void hello(Client& client, std::uint64_t request, const muster::ipc::wire::Frame& frame, TimePoint now);
  [[nodiscard]] muster::Result<void> welcome(Client& client, std::uint64_t request, bool rings);
  void refuse(ClientId client, std::uint64_t request, const muster::Error& error);
  void join(Client& client, std::uint64_t request, const muster::ipc::wire::Join& body);
  void stop(const Client& client, std::uint64_t request, const muster::ipc::wire::Stop& asked);
  void lease(Client& client, std::uint64_t request, const SegmentTable::Wanted& wanted, Duration timeout,
             TimePoint now);
  void leave_in_place(Client& client, std::uint64_t request, const muster::ipc::wire::LeaveInPlace& asked,
                      TimePoint now);
  void grant(ClientId client, std::uint64_t request, const Segment& segment);
  void grant_when_made(ClientId client, std::uint64_t request, const SegmentPtr& segment, TimePoint deadline);
  void grant_made(ClientId client, std::uint64_t request, Segment& segment);
  void refuse_grant(ClientId client, std::uint64_t request, SegmentId granted, const muster::Error& why);
  [[nodiscard]] muster::Result<void> submit(Client& client, std::uint64_t request,
                                            const muster::ipc::wire::Submit& part, TimePoint now);
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
  [[nodiscard]] muster::Result<void> token(const Client& client, const muster::ipc::wire::Frame& frame);
  void missing(Client& client, std::uint64_t request, WorkId work);
  void inspect(const Client& client, std::uint64_t request, const muster::ipc::wire::Frame& frame, TimePoint now);

  Parts parts_;
  boost::intrusive::list<Waiting, boost::intrusive::base_hook<WaitingHook>, boost::intrusive::constant_time_size<false>>
      waiting_;
  boost::intrusive::multiset<Coming, boost::intrusive::base_hook<DueHook>, boost::intrusive::key_of_value<DeadlineOf>,
                             boost::intrusive::constant_time_size<false>>
      coming_;
};

}  // namespace musterd
