// What a rank process of `muster bench` tells its parent through a pipe: the rounds of each size, or why it can't go
// on.
#pragma once

#include <cstdint>
#include <variant>
#include <vector>

#include <muster/ipc/fd.hpp>
#include <muster/result.hpp>

#include "load.hpp"

namespace muster::cli {

/// One timed round of one rank.
struct Sample {
  double wall_us = 0;
  double cpu_us = 0;  ///< of this rank; rank 0 adds the daemon's
};

struct SizeReport {
  std::uint64_t wrong = 0;
  std::vector<Sample> samples;
  Load load;  ///< own_us of this rank and, on rank 0, of the daemon; only rank 0 sets the other fields
};

void send_report(const ipc::Fd& pipe, const SizeReport& report);
void send_error(const ipc::Fd& pipe, const Error& error);

/// Waits for the rank's next message. Returns the rank's own Error if it sent one, or PeerLost if the pipe ended first.
[[nodiscard]] Result<SizeReport> receive_report(const ipc::Fd& pipe, int rank);

}  // namespace muster::cli
