// A reference to a function, valid while the call lasts that it is passed to. It makes no copy, so it allocates
// nothing.
#pragma once

#include <memory>
#include <type_traits>

namespace musterd {

class FunctionRef {
 public:
  /// `function` has to outlive the reference.
  template <class Function>
  requires(!std::is_same_v<std::remove_cvref_t<Function>, FunctionRef>)
      // NOLINTNEXTLINE(bugprone-forwarding-reference-overload): the constraint above excludes copies
      FunctionRef(Function&& function)
      : object_(const_cast<void*>(static_cast<const void*>(std::addressof(function)))),
        call_([](void* object) { (*static_cast<std::remove_reference_t<Function>*>(object))(); }) {}
  void operator()() const { call_(object_); }

 private:
  void* object_;
  void (*call_)(void*);
};

}  // namespace musterd
