// What a connection is charged with until the system has everything back.
#pragma once

#include "memory/ledger.hpp"

namespace musterd {

/// The charges for a client's rings, held until they are unmapped.
struct RingCharges {
  Charge memory;
  Charge map;  ///< for the daemon's mapping of them
};

/// All charges of a connection. They may outlive its client.
struct ConnectionCharges {
  Charge descriptors;
  RingCharges rings;
};

}  // namespace musterd
