// Ops over refs that one process holds. The process gives the inputs of all ranks, and gets the results of all ranks.
#pragma once

#include <vector>

#include <muster/ipc/records.hpp>

#include "base/time.hpp"
#include "collective/messages.hpp"
#include "collective/muster.hpp"
#include "memory/ledger.hpp"
#include "session/clients.hpp"
#include "session/op_counts.hpp"
#include "session/op_runs.hpp"
#include "session/teller.hpp"
#include "session/works.hpp"
#include "store/store.hpp"

namespace musterd {

class Combines {
 public:
  struct Parts {
    Ledger& ledger;
    const Store& store;
    Teller& teller;
    Works& works;
    OpRuns& runs;
    OpCounts& counts;
    Muster::Limits muster_limits;
    const bool& stopping;  ///< then no op begins any more
  };
  explicit Combines(Parts parts) : parts_(parts) {}

  /// If anything is wrong with the combine, its work fails.
  void start(const Client& client, const muster::ipc::Combine& combine, TimePoint now);

 private:
  [[nodiscard]] static muster::Result<void> check_counts(const muster::ipc::Combine& combine);
  [[nodiscard]] std::vector<Action> muster_refs(const muster::ipc::Combine& combine, Inputs inputs, Ticket ticket,
                                                Charge charge, TimePoint now);
  Parts parts_;
};

}  // namespace musterd
