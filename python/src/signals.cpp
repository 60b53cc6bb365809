#include "signals.hpp"

#include "gil.hpp"

namespace muster::python {

namespace {

thread_local int left_pending = 0;
thread_local int ignored = 0;

/// Does not run a handler or set an exception.
bool interrupt_is_pending() {
  if (!PyOS_InterruptOccurred()) return false;
  // PyOS_InterruptOccurred() clears the interrupt, so sets it again.
  PyErr_SetInterrupt();
  return true;
}

}  // namespace

SignalsLeftPending::SignalsLeftPending() { ++left_pending; }
SignalsLeftPending::~SignalsLeftPending() { --left_pending; }

SignalsIgnored::SignalsIgnored() { ++ignored; }
SignalsIgnored::~SignalsIgnored() { --ignored; }

bool signal_came() {
  if (ignored > 0) return false;
  const WithGil gil;
  return left_pending > 0 ? interrupt_is_pending() : PyErr_CheckSignals() != 0;
}

}  // namespace muster::python
