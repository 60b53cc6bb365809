// A hold that this process has on an object. It is given back to the daemon when its last Ref and view are gone.
#pragma once

#include <atomic>
#include <memory>

#include <muster/ipc/ids.hpp>
#include <muster/ipc/manifest.hpp>
#include <muster/ref.hpp>

namespace muster::detail {

class Connection;

/// Counts the holds of this process and tells the daemon when they end. The connection implements it.
class HoldKeeper {
 public:
  HoldKeeper() = default;
  HoldKeeper(const HoldKeeper&) = delete;
  HoldKeeper& operator=(const HoldKeeper&) = delete;
  virtual ~HoldKeeper() = default;
  virtual void hold_began() = 0;
  /// `shared` says that others may hold the object, too.
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
  mutable ipc::Manifest manifest;             ///< written once, before `described` is set
  mutable std::atomic<bool> described{true};  ///< false: this process has to ask for the manifest

  /// True once anybody else may hold the object through a pickle, an op, a part of it, or a forked child.
  mutable std::atomic<bool> shared{false};

  /// True once this process knows that the object has moved: the successor says where to.
  mutable std::atomic<bool> moved{false};

  /// Replaces this hold in a forked child, or once the object has moved. The connection's state lock guards it.
  mutable std::shared_ptr<const Hold> successor;

 private:
  HoldKeeper& keeper_;
};

}  // namespace muster::detail
