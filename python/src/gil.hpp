// Lets go of the GIL and takes it again, even while the interpreter ends. While it ends, CPython before 3.14 ends a
// daemon thread that asks for the GIL by unwinding its stack, and in noexcept functions that becomes std::terminate.
// Here such a thread waits for ever instead, as under 3.14; the process ends without it.
#pragma once

#include <unistd.h>

#include <utility>

#include "module.hpp"

namespace muster::python {

/// Calls a function of CPython that takes the GIL, or runs code which may. Never returns if the interpreter is ending.
template <class Function>
auto take_gil(const Function& function) noexcept {
  try {
    return function();
  } catch (...) {  // only the forced unwinding gets here: C code throws nothing else
    for (;;) ::pause();
  }
}

/// Calls a function of the user's. Null if it has raised an error.
inline nanobind::object call_user(nanobind::handle function, nanobind::handle args, nanobind::handle kwargs) {
  return nanobind::steal(take_gil([&] { return PyObject_Call(function.ptr(), args.ptr(), kwargs.ptr()); }));
}

/// The Python state of this thread while it is without the GIL. Null while it has the GIL, or if it never was Python's.
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

/// Runs a function that may wait, or takes long, without the GIL.
template <class Function>
auto unlocked(const Function& function) {
  const WithoutGil release;
  return function();
}

/// The same for a function that returns a Result: returns its value or raises its error.
template <class Function>
auto call_unlocked(const Function& function) {
  return value_or_raise(unlocked(function));
}

/// Takes the GIL on any thread, whether or not the thread has it.
class WithGil {
 public:
  /// PyGILState_Ensure() would crash when the interpreter has ended but the process has not.
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
