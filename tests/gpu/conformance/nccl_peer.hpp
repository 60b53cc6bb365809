// The part of the second process that calls NCCL.
#pragma once

#include "peer.hpp"

namespace conformance {

/// Does what the request says, on the device whose context is current. Returns an ncclResult_t, or what the request's
/// comment says.
int answer_nccl(const Request& request, Reply& reply);

}  // namespace conformance
