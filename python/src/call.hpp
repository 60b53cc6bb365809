// One decorated call: while it runs, NumPy allocates inside the store (NEP 49). Arrays that live longer than the call
// keep its handler alive. Allocations after the call come from malloc.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "call_share.hpp"
#include "module.hpp"

namespace muster::python {

class Call {
 public:
  explicit Call(ConnectionPtr connection);
  ~Call();
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  void enter();
  /// Restores the previous handler if this call's is still in use. Does nothing if it was restored already.
  void leave();
  [[nodiscard]] std::uint64_t id() const;
  /// How many bytes the call's arrays may take in the store.
  [[nodiscard]] std::uint64_t limit() const;
  /// Why an array of the call is not in the store.
  [[nodiscard]] NotStored why_not_stored(const void* data) const;
  [[nodiscard]] const ConnectionPtr& connection() const;

 private:
  struct Handler;
  friend struct HandlerFunctions;
  [[nodiscard]] static const Handler* of_a_call(nb::handle capsule);
  nb::object capsule_;  ///< owns handler_
  Handler* handler_;
};

}  // namespace muster::python
