#include "hold.hpp"

#include <utility>

namespace muster::detail {

Hold::Hold(std::shared_ptr<Connection> connection_, HoldKeeper& keeper, ipc::ObjectId object_,
           ipc::Capability capability_, ipc::Manifest&& manifest_)
    : connection(std::move(connection_)),
      object(object_),
      capability(capability_),
      manifest(std::move(manifest_)),
      keeper_(keeper) {
  keeper_.hold_began();
}

Hold::~Hold() { keeper_.hold_ended(object, shared); }

}  // namespace muster::detail
