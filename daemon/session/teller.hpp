// Tells clients things, by replies to their requests and by records in their completion rings. If a record can't be
// written, its client is cut off, and nothing is thrown. A reply may throw.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <muster/ipc/records.hpp>
#include <muster/result.hpp>

#include "session/clients.hpp"
#include "session/outside.hpp"

namespace musterd {

using muster::ipc::WorkId;

class Teller {
 public:
  Teller(Clients& clients, Outside& outside) : clients_(clients), outside_(outside) {}

  // ---- records; nothing for a client that is gone ----
  template <class Record>
  void tell(ClientId client, muster::ipc::CompletionType type, const Record& record) noexcept {
    if (!clients_.find(client)) return;
    clients_.guarded(
        [&] {
          body_.clear();
          muster::ipc::write(record, body_);
          outside_.complete(client, type, body_);
        },
        client);
  }
  void fail_work(ClientId client, WorkId work, const muster::Error& error) noexcept {
    // Copying the error may throw for lack of memory, too.
    clients_.guarded(
        [&] {
          tell(client, muster::ipc::CompletionType::failed, muster::ipc::Failed{work, error});
        },
        client);
  }

  // ---- replies; each answers one request ----
  void reply(ClientId client, std::span<const std::byte> frame, std::span<const int> fds = {});
  void reply(ClientId client, std::uint64_t request, const muster::Result<void>& result);
  void reply_ok(ClientId client, std::uint64_t request) { reply(client, request, muster::Result<void>{}); }
  void reply_error(ClientId client, std::uint64_t request, const muster::Error& error);

 private:
  Clients& clients_;
  Outside& outside_;
  std::vector<std::byte> body_;  ///< reused, to save allocations
};

}  // namespace musterd
