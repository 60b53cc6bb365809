// One hold of an object by this process, given back to the daemon when the last Ref and view over it goes.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>
#include <vector>

#include <muster/ipc/ids.hpp>
#include <muster/ipc/manifest.hpp>
#include <muster/ipc/records.hpp>
#include <muster/ref.hpp>
#include <muster/result.hpp>

namespace muster::detail {

class Connection;

struct Hold {
  Hold(std::shared_ptr<Connection> connection, ipc::ObjectId object, ipc::Capability capability,
       ipc::Manifest&& manifest);
  Hold(const Hold&) = delete;
  Hold& operator=(const Hold&) = delete;
  ~Hold();

  std::shared_ptr<Connection> connection;
  ipc::ObjectId object;
  ipc::Capability capability;
  mutable ipc::Manifest manifest;             ///< written once, before `described`
  mutable std::atomic<bool> described{true};  ///< false: the manifest has to be asked for

  /// True once anybody else may hold the object: a pickle of it, an op, a part of it, a forked child.
  mutable std::atomic<bool> shared{false};

  /// True once the object is known to lie elsewhere: its successor says where.
  mutable std::atomic<bool> moved{false};

  mutable std::mutex mutex;  ///< guards what follows
  /// What to use instead in a forked child, or once the object has moved.
  mutable std::shared_ptr<const Hold> successor;
};

/// The hold to work with: itself, with its manifest, or one taken anew if it was inherited by fork or its object moved.
[[nodiscard]] Result<std::shared_ptr<const Hold>> usable(const std::shared_ptr<const Hold>& hold);
/// Asks whether the object, of which a segment is gone, lies elsewhere by now. If so, usable() knows it from then on.
[[nodiscard]] Result<bool> has_moved(const Hold& hold);
/// Those of an op's inputs, all of them in the store of this connection. Their refs keep them.
[[nodiscard]] Result<ipc::ObjectIds> objects_of(const std::shared_ptr<Connection>& connection,
                                                std::span<const Ref> inputs);
/// A pickle that has been loaded keeps its object only while nobody needs the room.
enum class Found : std::uint8_t { by_pickle, again };
/// Takes a hold of an object by its capability.
[[nodiscard]] Result<std::shared_ptr<const Hold>> look_up(const std::shared_ptr<Connection>& connection,
                                                          std::uint64_t incarnation, ipc::ObjectId object,
                                                          ipc::Capability capability, Found found);

/// The hold that a serialized ref names; attaches to its daemon if `known` is not connected to it.
[[nodiscard]] Result<std::shared_ptr<const Hold>> deserialize(std::string_view bytes,
                                                              const std::shared_ptr<Connection>& known);

}  // namespace muster::detail
