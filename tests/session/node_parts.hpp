// The parts of a node that OpRuns and its own parts need, over a store of real segments, without a node.
#pragma once

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "recorder.hpp"
#include "session/op_runs.hpp"
#include "store/world.hpp"

namespace musterd::testing {

struct NodeParts : StoreWorld {
  static constexpr UserId user = 1000;

  explicit NodeParts(Quota quota = memory_quota(64 * mebibyte)) : StoreWorld({}, quota) {
    settings.quota = quota;
    settings.segments_of_turn = 8;
  }
  NodeSettings settings;
  Recorder outside;
  Admission admission{100};
  History history{ledger, {64 * mebibyte, mebibyte}};
  Clients clients{ledger, 0, ""};
  Teller teller{clients, outside};
  Works works{clients, teller, store, outside, 1};
  MemoryPressure pressure{{64 * mebibyte, {}},
                          {ledger, segments, results, store, history, admission, clients, teller, outside}};
  Giver giver{clients, works, store};
  Retries retries{giver, works};
  RunningOps running;

  /// A group of one user whose history has room for so many bytes.
  GroupPtr group_of(int ranks, std::uint64_t history_bytes = 0, bool open = false) {
    return std::make_shared<GroupState>(Group::Settings{.name = "g",
                                                        .world_size = ranks,
                                                        .on_loss = {},
                                                        .timeout = {},
                                                        .user = user,
                                                        .open = open,
                                                        .history_bytes = history_bytes},
                                        Muster::Limits{}, Charge{});
  }
  /// An allreduce of so many ranks without a plan; rank r is of client r + 1.
  RunningOp& op(int ranks, GroupPtr group = nullptr, const std::string& key = {}) {
    RunningOp& made = running[++last_];
    made.key = last_;
    made.group = group;
    made.user = user;
    auto op = std::make_shared<Op>();
    op->id = last_;
    op->key = key;
    op->world_size = ranks;
    for (int rank = 0; rank < ranks; ++rank) op->contributions.push_back(contribution(rank, group));
    made.op = std::move(op);
    return made;
  }
  Contribution contribution(int rank, const GroupPtr& group) {
    const ClientId client{static_cast<std::uint32_t>(rank + 1)};
    if (!clients.find(client)) REQUIRE(clients.add(client, {user, static_cast<std::int32_t>(client.value)}, start));
    Contribution contribution;
    contribution.rank = rank;
    contribution.kind = muster::ipc::Kind::allreduce;
    contribution.ticket = works.add({client, {++last_work_}, {client.value}, group, {}});
    return contribution;
  }
  /// What the client was told of works that are done, and of works that failed.
  std::vector<muster::ipc::Done> done(std::uint32_t client) {
    return told<muster::ipc::Done>(client, muster::ipc::CompletionType::done, muster::ipc::read_done);
  }
  std::vector<muster::ipc::Failed> failed(std::uint32_t client) {
    return told<muster::ipc::Failed>(client, muster::ipc::CompletionType::failed, muster::ipc::read_failed);
  }

 private:
  template <class Record, class Read>
  std::vector<Record> told(std::uint32_t client, muster::ipc::CompletionType type, Read read) {
    std::vector<Record> told;
    for (const auto& completion : outside.completions[{client}])
      if (completion.type == type) told.push_back(read(completion.body).value());
    return told;
  }
  std::uint64_t last_ = 0;
  std::uint32_t last_work_ = 0;
};

}  // namespace musterd::testing
