#include "collective/failed_ops.hpp"

#include <algorithm>
#include <utility>

namespace musterd {

std::unique_ptr<Failure> FailedOps::make_failure(const PendingOp& op, const muster::Error& error,
                                                 std::size_t paid) const {
  auto failure = std::make_unique<Failure>(error, world_size_);
  if (paid > 0) failure->shorten(paid - std::min(paid, bytes_beside(op)));
  return failure;
}

void FailedOps::remember(PendingOp& op, std::unique_ptr<Failure> failure, Charge& payer) {
  ops_.emplace(op.id, &op);
  op.charge = std::move(payer);
  op.remembered_bytes = bytes_beside(op) + failure->bytes();
  op.charge.keep_heap(op.remembered_bytes);
  op.failure = std::move(failure);
  bytes_ += op.remembered_bytes;
}

void FailedOps::forget(const PendingOp& op) {
  if (ops_.erase(op.id) > 0) bytes_ -= op.remembered_bytes;
}

PendingOp& FailedOps::forget_oldest() {
  PendingOp& op = *ops_.begin()->second;
  forget(op);
  op.forgotten = op.failure->code();
  op.failure.reset();
  op.charge.keep_heap(sizeof(PendingOp));
  return op;
}

std::size_t FailedOps::bytes_beside(const PendingOp& op) const {
  constexpr std::size_t node_bytes = 96;  // of a map or list, with what malloc adds
  const std::size_t in_matches =
      op.match ? 2 * node_bytes + sizeof(Match) + op.match->key.size() + static_cast<std::size_t>(world_size_) / 8 : 0;
  return sizeof(PendingOp) + Failure::bytes_beside(world_size_) + 2 * node_bytes + in_matches;
}

}  // namespace musterd
