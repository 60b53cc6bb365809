// Holds to work with: taken by a capability, taken anew in a forked child, or once their object has moved.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include <muster/ipc/ids.hpp>
#include <muster/ipc/records.hpp>
#include <muster/ref.hpp>
#include <muster/result.hpp>

#include "memory/hold.hpp"
#include "memory/opening.hpp"

namespace muster::detail {

class Connection;

/// The hold to work with: itself, with its manifest, or one taken anew if it was inherited by fork or its object moved.
[[nodiscard]] Result<std::shared_ptr<const Hold>> usable(const std::shared_ptr<const Hold>& hold);
/// Asks whether the object, of which a segment is gone, lies elsewhere by now. If so, usable() knows it from then on.
[[nodiscard]] Result<bool> has_moved(const Hold& hold);
/// Views of all leaves. The hold behind them may be another than this one: see usable().
[[nodiscard]] Result<Opened> open(const std::shared_ptr<const Hold>& hold);
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
