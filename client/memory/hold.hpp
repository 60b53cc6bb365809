// One hold of an object by this process, given back to the daemon when the last Ref and view over it goes.
#pragma once

#include <atomic>
#include <memory>

#include <muster/ipc/ids.hpp>
#include <muster/ipc/manifest.hpp>
#include <muster/ref.hpp>

namespace muster::detail {

class Connection;

/// Who counts the holds of this process and tells the daemon of their ends: the connection.
class HoldKeeper {
 public:
  HoldKeeper() = default;
  HoldKeeper(const HoldKeeper&) = delete;
  HoldKeeper& operator=(const HoldKeeper&) = delete;
  virtual ~HoldKeeper() = default;
  virtual void hold_began() = 0;
  /// `shared`: others may hold the object, too.
  virtual void hold_ended(ipc::ObjectId object, bool shared) = 0;
};

struct Hold {
  /// `keeper` lives as long as the connection.
  Hold(std::shared_ptr<Connection> connection, HoldKeeper& keeper, ipc::ObjectId object, ipc::Capability capability,
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

  /// What to use instead in a forked child, or once the object has moved. Guarded by the connection's state lock.
  mutable std::shared_ptr<const Hold> successor;

 private:
  HoldKeeper& keeper_;
};

}  // namespace muster::detail
