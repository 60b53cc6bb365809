// The node: all control state of one daemon, and what each event does to it. One thread, no clock, no socket: events
// come in through the public functions, effects go out through Outside. What a client sends is checked here or in the
// parts that the node calls; nothing in it is trusted.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include <muster/ipc/ids.hpp>
#include <muster/ipc/records.hpp>
#include <muster/result.hpp>

#include "base/time.hpp"
#include "memory/admission.hpp"
#include "memory/ledger.hpp"
#include "memory/result_pool.hpp"
#include "memory/segment_table.hpp"
#include "session/clients.hpp"
#include "session/combines.hpp"
#include "session/gathering.hpp"
#include "session/group_ops.hpp"
#include "session/group_table.hpp"
#include "session/inspect.hpp"
#include "session/memory_pressure.hpp"
#include "session/node_settings.hpp"
#include "session/op_counts.hpp"
#include "session/op_runs.hpp"
#include "session/outside.hpp"
#include "session/records.hpp"
#include "session/requests.hpp"
#include "session/teller.hpp"
#include "session/works.hpp"
#include "store/store.hpp"

namespace musterd {

class Node {
 public:
  /// `backings` make the memory of segments.
  Node(NodeSettings settings, Outside& outside, Backings backings);
  ~Node();

  // ---- events; each brings the time. A call that comes back from Outside has the time of the event before it. ----
  /// A client connected, and has sent nothing yet. It is charged as one that only asks. Refused if there is no room.
  [[nodiscard]] muster::Result<void> connected(ClientId client, Credentials credentials, TimePoint now);
  /// A verified frame.
  void frame(ClientId client, std::span<const std::byte> bytes, TimePoint now);
  /// A record from the client's ring, in private memory.
  void record(ClientId client, muster::ipc::SubmissionType type, std::span<const std::byte> body, TimePoint now);
  /// The client died or closed its connection; `how` is for messages: "died". Returns the charges of its connection,
  /// which must be held until its parts are given back.
  [[nodiscard]] ConnectionCharges disconnected(ClientId client, std::string how, TimePoint now);
  /// The client broke the protocol: tells it why and ends the connection.
  void violated(ClientId client, const muster::Error& error, TimePoint now);
  void lifeline_closed(ClientId heir, TimePoint now);
  /// Memory that was disposed of has been given back.
  void disposed(TimePoint now);
  void tick(TimePoint now);
  /// True while unfinished work is left for later turns. Call go_on() then, whenever clients leave time for it.
  [[nodiscard]] bool goes_on() const {
    return store_.holds().drops() || store_.tokens().goes_on() || segments_.drops() || group_ops_.goes_on() ||
           runs_.goes_on() || history_.goes_on() || admission_.goes_on() || clients_.any_doomed() ||
           clients_.tries_again();
  }
  void go_on(TimePoint now);
  /// True if something has found no memory since the last go_on(), and has to be tried again after a pause.
  [[nodiscard]] bool found_no_memory() const { return clients_.tries_again(); }
  /// Fails every op and tells every client.
  void shut_down(const std::string& reason, TimePoint now);

  /// Changes `charge` to so many bytes of the heap, which the server keeps for the client. It refuses nothing for a
  /// client that is gone, as what that had is given back next.
  [[nodiscard]] muster::Result<void> charge_heap(ClientId client, Charge& charge, std::uint64_t bytes);
  [[nodiscard]] std::optional<TimePoint> next_deadline() const;
  [[nodiscard]] std::size_t clients() const { return clients_.all().size(); }
  [[nodiscard]] std::size_t ops_in_flight() const { return works_.size(); }

 private:
  friend class NodeAudit;  ///< in the tests; adds up what is held
  /// Runs an event, and what follows every event. If it throws, the client that caused it (if any) is cut off, and
  /// go_on() finishes what was begun.
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

  void gather(TimePoint now);

  NodeSettings settings_;
  Outside& outside_;
  Ledger ledger_;
  SegmentTable segments_;
  ResultPool results_;
  Store store_;
  History history_;
  Admission admission_;
  Clients clients_;
  Teller teller_;
  MemoryPressure pressure_;
  Works works_;
  GroupTable groups_;
  OpCounts counts_;
  Inspect inspect_;
  Giver giver_;
  Retries retries_;
  OpRuns runs_;
  GroupOps group_ops_;
  Combines combines_;
  Records records_;
  Requests requests_;
  Gathering gathering_;
  std::size_t disposals_ = 0;  ///< segments and descriptions of objects whose memory is being given back
  bool stopping_ = false;
  int events_ = 0;  ///< how deeply events are nested
  TimePoint started_;
  TimePoint now_;
};

}  // namespace musterd
