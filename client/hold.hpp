// One hold of an object by this process, given back to the daemon when the last Ref and view over it goes.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include <muster/ipc/ids.hpp>
#include <muster/ipc/manifest.hpp>
#include <muster/result.hpp>

namespace muster::detail {

class Connection;

struct Hold {
  Hold(std::shared_ptr<Connection> connection, ipc::ObjectId object, ipc::Capability capability,
       ipc::Manifest manifest);
  Hold(const Hold&) = delete;
  Hold& operator=(const Hold&) = delete;
  ~Hold();

  std::shared_ptr<Connection> connection;
  ipc::ObjectId object;
  ipc::Capability capability;
  ipc::Manifest manifest;
  bool described = true;  ///< false: the manifest has to be asked for
  int process;            ///< the pid that holds it

  mutable std::mutex mutex;  ///< guards successor
  mutable std::shared_ptr<const Hold>
      successor;  ///< what to use instead: in a forked child, or with the manifest described
};

/// The hold to work with: itself, or one taken anew if it was inherited by fork or its manifest was too large for the
/// ring.
[[nodiscard]] Result<std::shared_ptr<const Hold>> usable(const std::shared_ptr<const Hold>& hold);
/// Takes a hold of an object by its capability.
[[nodiscard]] Result<std::shared_ptr<const Hold>> look_up(const std::shared_ptr<Connection>& connection,
                                                          std::uint64_t incarnation, ipc::ObjectId object,
                                                          ipc::Capability capability);

/// The hold that a serialized ref names; attaches to its daemon if `known` is not connected to it.
[[nodiscard]] Result<std::shared_ptr<const Hold>> deserialize(std::string_view bytes,
                                                              const std::shared_ptr<Connection>& known);

}  // namespace muster::detail
