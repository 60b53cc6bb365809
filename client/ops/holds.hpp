// Gets holds that work: by a capability, anew in a forked child, or anew once the object has moved.
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

/// Returns `hold` with its manifest, or a new hold if this one was inherited by a fork or its object has moved.
[[nodiscard]] Result<std::shared_ptr<const Hold>> usable(const std::shared_ptr<const Hold>& hold);
/// Asks whether an object with a missing segment has moved. If so, usable() knows it from then on.
[[nodiscard]] Result<bool> has_moved(const Hold& hold);
/// Views of all leaves. They may keep another hold than this one: see usable().
[[nodiscard]] Result<Opened> open(const std::shared_ptr<const Hold>& hold);
/// The objects of an op's inputs. All must be in the store of this connection. Their refs keep them.
[[nodiscard]] Result<ipc::ObjectIds> objects_of(const std::shared_ptr<Connection>& connection,
                                                std::span<const Ref> inputs);
/// `by_pickle` looks up a loaded pickle. It keeps its object only as long as nobody needs the memory.
enum class Found : std::uint8_t { by_pickle, again };
/// Takes a hold of an object by its capability.
[[nodiscard]] Result<std::shared_ptr<const Hold>> look_up(const std::shared_ptr<Connection>& connection,
                                                          std::uint64_t incarnation, ipc::ObjectId object,
                                                          ipc::Capability capability, Found found);
/// The hold that a serialized ref names. Connects to its daemon if `known` is not connected to it.
[[nodiscard]] Result<std::shared_ptr<const Hold>> deserialize(std::string_view bytes,
                                                              const std::shared_ptr<Connection>& known);

}  // namespace muster::detail
