#include "collective/failed_codes.hpp"

#include <iterator>
#include <utility>

#include "base/assert.hpp"

namespace musterd {

void FailedCodes::keep(PendingOp& op) {
  constexpr std::size_t kept_bytes = 96;  // with what the map and malloc add
  const auto code = op.code();
  if (!rows_.empty() && rows_.rbegin()->second.code == code) return;
  const auto kept = rows_.emplace_hint(rows_.end(), op.sequence, Row{code, {}});
  op.charge.keep_heap(kept_bytes);
  kept->second.charge = std::move(op.charge);
}

muster::Code FailedCodes::code_of(std::uint64_t sequence) const {
  const auto next = rows_.upper_bound(sequence);
  MUSTER_ASSERT(next != rows_.begin(), "codes are kept while somebody may come");
  return std::prev(next)->second.code;
}

/// A contribution adds at most one row, and this drops up to two, so that those that a loss leaves behind go, too.
void FailedCodes::forget_some(std::uint64_t slowest, std::uint64_t end) {
  constexpr int at_once = 2;
  for (int i = 0; i < at_once && !rows_.empty(); ++i) {
    const auto next = std::next(rows_.begin());
    if ((next == rows_.end() ? end : next->first) > slowest) return;
    forget_first();
  }
}

}  // namespace musterd
