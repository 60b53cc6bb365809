// Handles the records in a client's ring, which are for what is frequent and needs no reply.
#pragma once

#include <span>

#include <muster/ipc/records.hpp>
#include <muster/result.hpp>

#include "base/time.hpp"
#include "memory/segment_table.hpp"
#include "session/clients.hpp"
#include "session/combines.hpp"
#include "session/group_ops.hpp"
#include "session/memory_pressure.hpp"
#include "session/teller.hpp"
#include "store/store.hpp"

namespace musterd {

class Records {
 public:
  struct Parts {
    SegmentTable& segments;
    Store& store;
    Clients& clients;
    Teller& teller;
    MemoryPressure& pressure;
    GroupOps& group_ops;
    Combines& combines;
  };
  explicit Records(Parts parts) : parts_(parts) {}

  /// An error means that the client broke the protocol and has to be cut off.
  [[nodiscard]] muster::Result<void> handle(Client& client, muster::ipc::SubmissionType type,
                                            std::span<const std::byte> body, TimePoint now);

 private:
  bool refuse_while_short(const Client& client, muster::ipc::SubmissionType type, std::span<const std::byte> body);
  [[nodiscard]] muster::Result<void> seal(const Client& client, std::span<const std::byte> body, TimePoint now);
  [[nodiscard]] muster::Result<void> release(const Client& client, std::span<const std::byte> body);

  Parts parts_;
};

}  // namespace musterd
