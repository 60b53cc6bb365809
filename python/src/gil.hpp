// Giving the GIL up and taking it again, also while the interpreter ends.
// CPython before 3.14 then ends a daemon thread that asks for the GIL by unwinding its stack, which noexcept functions
// turn into std::terminate. Such a thread stays where it is instead, as under 3.14; the process ends without it.
#pragma once

#include <unistd.h>

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

class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;
  ~WithoutGil() {
    take_gil([this] { PyEval_RestoreThread(state_); });
  }

 private:
  PyThreadState* state_;
};

class WithGil {
 public:
  WithGil() : state_(take_gil([] { return PyGILState_Ensure(); })) {}
  WithGil(const WithGil&) = delete;
  WithGil& operator=(const WithGil&) = delete;
  ~WithGil() { PyGILState_Release(state_); }

 private:
  PyGILState_STATE state_;
};

}  // namespace muster::python
