// Makes objects: seals regions, and names parts of objects. Also starts ops over objects of this process.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include <muster/ipc/manifest.hpp>
#include <muster/ipc/records.hpp>
#include <muster/options.hpp>
#include <muster/ref.hpp>
#include <muster/result.hpp>
#include <muster/work.hpp>

namespace muster::detail {

struct ArenaRegion;
class Connection;
struct Lease;

/// How long a call waits for room in a full store unless its caller gives a timeout.
inline constexpr std::chrono::seconds default_wait{30};

/// Adds an array in a region to what is sealed. An array without bytes lies in no segment.
[[nodiscard]] Result<void> add_leaf(ipc::Manifest& manifest, const ArenaRegion& region, DType dtype,
                                    std::span<const std::int64_t> shape);

/// Wraps a wait, and only a wait: a caller that holds a lock which others want lets go of it meanwhile.
using AroundWait = Result<void> (*)(const std::function<Result<void>()>& wait);
/// Regions of the arena that become an object with one hold of this process. `addresses`: any address inside each
/// region.
[[nodiscard]] Result<Ref> seal(const std::shared_ptr<Connection>& connection, ipc::Manifest manifest,
                               std::span<const std::byte* const> addresses, std::uint64_t copied_bytes,
                               AroundWait around = nullptr);
/// A hard lease becomes an object that nobody can write any more, this process included.
[[nodiscard]] Result<Ref> seal_hard(Lease& lease, ipc::Manifest manifest);
/// An object made of parts of another's bytes; nothing is copied.
[[nodiscard]] Result<Ref> derive(const Ref& whole, ipc::Manifest manifest);
/// Rows of a plain array, along axis 0.
[[nodiscard]] Result<Ref> slice(const Ref& whole, std::int64_t first_row, std::int64_t rows);

/// Invalid for an unknown number: the daemon would end the connection of a client that sends one.
[[nodiscard]] Result<void> check_reduce_op(ReduceOp op);
/// Starts an op over objects of this process.
[[nodiscard]] Result<Work> combine(const std::shared_ptr<Connection>& connection, ipc::Combine record,
                                   std::span<const Ref> inputs, const OpOptions& options);

}  // namespace muster::detail
