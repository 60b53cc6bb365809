// Giving the GIL up and taking it again, also while the interpreter ends.
// CPython before 3.14 then ends a daemon thread that asks for the GIL by unwinding its stack, which noexcept functions
// turn into std::terminate. Such a thread stays where it is instead, as under 3.14; the process ends without it.
#pragma once

#include <cxxabi.h>
#include <unistd.h>

#include "module.hpp"

namespace muster::python {

/// `take()`, or nothing any more if the interpreter ends.
template <class Take>
auto take_gil(const Take& take) noexcept {
  try {
    return take();
  } catch (const abi::__forced_unwind&) {
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
