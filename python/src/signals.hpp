// Handles signals that come while a thread waits for the daemon.
#pragma once

namespace muster::python {

/// While such an object exists on a thread, its waits run no signal handlers: their callers can't raise what the
/// handlers raise. Ctrl-C still ends the wait, and Python sees it when it runs again.
class SignalsLeftPending {
 public:
  SignalsLeftPending();
  SignalsLeftPending(const SignalsLeftPending&) = delete;
  SignalsLeftPending& operator=(const SignalsLeftPending&) = delete;
  ~SignalsLeftPending();
};

/// While such an object exists on a thread, its waits don't look for signals at all: looking needs the GIL. For
/// functions that a library calls under a lock of its own, for which a thread that has the GIL may wait.
class SignalsIgnored {
 public:
  SignalsIgnored();
  SignalsIgnored(const SignalsIgnored&) = delete;
  SignalsIgnored& operator=(const SignalsIgnored&) = delete;
  ~SignalsIgnored();
};

/// Whether the wait should end. A waiting thread calls it at least every 50 ms, and holds no lock of Muster meanwhile.
[[nodiscard]] bool signal_came();

}  // namespace muster::python
