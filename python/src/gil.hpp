// Giving the GIL up and taking it again, also while the interpreter ends.
// CPython before 3.14 then ends a daemon thread that asks for the GIL by unwinding its stack, which noexcept functions
// turn into std::terminate. Such a thread stays where it is instead, as under 3.14; the process ends without it.
#pragma once

#include <unistd.h>

#include <utility>

#include "module.hpp"

namespace muster::python {

/// `take()`, a call of CPython's, or nothing any more if the interpreter ends.
template <class Take>
auto take_gil(const Take& take) noexcept {
  try {
    return take();
  } catch (...) {  // only the forced unwinding gets here: C throws nothing else
    for (;;) ::pause();
  }
}

/// The state of this thread, which gave the GIL up; null while it has it, or if it never was Python's.
inline thread_local PyThreadState* state_without_gil = nullptr;

class WithoutGil {
 public:
  WithoutGil() { state_without_gil = PyEval_SaveThread(); }
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;
  ~WithoutGil() {
    take_gil([state = std::exchange(state_without_gil, nullptr)] { PyEval_RestoreThread(state); });
  }
};

/// Runs what may wait, or takes a while, without the GIL.
template <class Function>
auto unlocked(const Function& function) {
  const WithoutGil release;
  return function();
}

/// The same for what gives a Result: its value, or its error raised.
template <class Function>
auto call_unlocked(const Function& function) {
  return value_or_raise(unlocked(function));
}

/// On any thread, with or without the GIL.
class WithGil {
 public:
  /// PyGILState_Ensure() would crash when the interpreter has ended but not yet the process.
  WithGil() : state_(std::exchange(state_without_gil, nullptr)) {
    if (state_) take_gil([this] { PyEval_RestoreThread(state_); });
    else ensured_ = take_gil([] { return PyGILState_Ensure(); });
  }
  WithGil(const WithGil&) = delete;
  WithGil& operator=(const WithGil&) = delete;
  ~WithGil() {
    if (state_) state_without_gil = PyEval_SaveThread();
    else PyGILState_Release(ensured_);
  }

 private:
  PyThreadState* state_;
  PyGILState_STATE ensured_{};
};

}  // namespace muster::python
