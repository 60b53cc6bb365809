// Signals that come while somebody waits for the daemon.
#pragma once

namespace muster::python {

/// While one lives on a thread, its waits run no signal handlers: their callers have no way to raise what these raise.
/// Ctrl-C still ends the wait; Python hears of it when it runs again.
class SignalsLeftPending {
 public:
  SignalsLeftPending();
  SignalsLeftPending(const SignalsLeftPending&) = delete;
  SignalsLeftPending& operator=(const SignalsLeftPending&) = delete;
  ~SignalsLeftPending();
};

/// Whether the wait shall end. Asked at least every 50 ms by a waiting thread, without any lock of Muster.
[[nodiscard]] bool signal_came();

}  // namespace muster::python
