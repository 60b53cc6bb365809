// What a connection is charged with until the system has got everything of it back.
#pragma once

#include "memory/ledger.hpp"

namespace musterd {

/// What a client's rings are charged with until they are unmapped.
struct RingCharges {
  Charge memory;
  Charge map;  ///< where the daemon has them
};

/// All of a connection, also when its client is forgotten.
struct ConnectionCharges {
  Charge descriptors;
  RingCharges rings;
};

}  // namespace musterd
