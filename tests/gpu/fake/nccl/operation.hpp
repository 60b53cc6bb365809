// Collectives, sends and receives: what a call asks for, and how it runs in its stream.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "communicator.hpp"

namespace fake_nccl {

enum class Kind { all_reduce, broadcast, reduce, all_gather, reduce_scatter, all_to_all, gather, scatter, send, recv };

struct Operation {
  Kind kind = Kind::all_reduce;
  const void* from = nullptr;
  void* to = nullptr;
  std::size_t count = 0;
  ncclDataType_t type = ncclInt8;
  ncclRedOp_t op = ncclSum;
  int root = 0;  // or the peer
  CUstream stream = nullptr;
  std::optional<PreMultiplied> factor;
  Injected injected;

  [[nodiscard]] bool collective() const { return kind != Kind::send && kind != Kind::recv; }
  [[nodiscard]] bool reduces() const {
    return kind == Kind::all_reduce || kind == Kind::reduce || kind == Kind::reduce_scatter;
  }
};

/// Enqueues the ops of one group of calls, in this communicator, as one piece of work.
void launch(const std::shared_ptr<Communicator>& communicator, std::vector<Operation> operations);

}  // namespace fake_nccl
