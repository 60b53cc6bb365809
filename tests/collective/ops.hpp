// Pending ops for tests of the parts that link and remember them.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "collective/pending_op.hpp"
#include "inputs.hpp"

namespace musterd::testing {

/// A group's charges against a ledger with room for all that a test does.
inline Ledger& roomy_ledger() {
  constexpr std::uint64_t plenty = 1 << 20;
  const Amounts all{plenty, plenty, plenty, plenty, plenty, plenty, plenty};
  static Ledger ledger({.total = all, .per_user = all, .per_client = all});
  return ledger;
}
inline std::uint64_t heap_charged() { return roomy_ledger().total().used[Resource::heap]; }
inline Charge heap_charge(std::uint64_t bytes) {
  return std::move(roomy_ledger().charge({}, Resource::heap, bytes).value());
}

/// Makes the op gather, with this as its first contribution.
inline void gather(PendingOp& op, OpId id, Contribution first, std::string name = "op") {
  op.id = id;
  op.deadline = first.deadline;
  op.op = std::make_shared<Op>();
  op.op->id = id;
  op.op->name = std::move(name);
  op.op->contributions.push_back(std::move(first));
}

}  // namespace musterd::testing
