#include "names.hpp"

#include <boost/unordered/unordered_flat_set.hpp>
#include <utility>
#include <vector>

#include "references.hpp"

namespace muster::python {

namespace {

/// The variables of the function that called the running function.
class CallersScope {
 public:
  CallersScope() {
    PyFrameObject* running = PyEval_GetFrame();
    if (!running) return;
    const nb::object frame = nb::steal(reinterpret_cast<PyObject*>(PyFrame_GetBack(running)));
    if (!frame.is_valid()) return;
    const nb::object code =
        nb::steal(reinterpret_cast<PyObject*>(PyFrame_GetCode(reinterpret_cast<PyFrameObject*>(frame.ptr()))));
    locals_ = frame.attr("f_locals");
    globals_ = frame.attr("f_globals");
    is_function_ = reinterpret_cast<PyCodeObject*>(code.ptr())->co_flags & CO_OPTIMIZED;
    // From Python 3.13 on, a function's variables are not a dict.
    if (is_function_ && !PyDict_CheckExact(locals_.ptr())) values_ = nb::steal(PyMapping_Values(locals_.ptr()));
  }

  /// Up to Python 3.12 the frame caches this dict, which would keep objects that the function has let go of. So clears
  /// it.
  ~CallersScope() {
    constexpr Py_ssize_t frame_and_here = 2;
    if (is_function_ && PyDict_CheckExact(locals_.ptr()) && Py_REFCNT(locals_.ptr()) == frame_and_here)
      PyDict_Clear(locals_.ptr());
  }
  CallersScope(const CallersScope&) = delete;
  CallersScope& operator=(const CallersScope&) = delete;

  /// The variables are in the frame itself, so the list of them here adds one reference to each.
  [[nodiscard]] bool has_copies() const { return is_function_; }
  [[nodiscard]] PyObject* variables() const { return values_.is_valid() ? values_.ptr() : locals_.ptr(); }
  [[nodiscard]] PyObject* globals() const { return globals_.ptr(); }

 private:
  bool is_function_ = false;
  nb::object locals_;
  nb::object globals_;
  nb::object values_;
};

/// Looks for names of the object, nearest first.
class Search {
 public:
  Search(PyObject* object, Py_ssize_t missing) : object_(object), missing_(missing) {}

  bool finds_all(const CallersScope& scope) {
    if (missing_ <= 0) return true;
    if (!scope.variables()) return false;
    for_each_held(scope.variables(), [&](PyObject* held) {
      if (held == object_) missing_ -= scope.has_copies() ? 2 : 1;
      return Visit::go_on;
    });
    if (missing_ <= 0) return true;
    met_.insert(scope.variables());
    look_into(scope.globals());
    for_each_held(scope.variables(), [&](PyObject* held) {
      look_into(held);
      return Visit::go_on;
    });
    for (int depth = 0; depth < depth_max && missing_ > 0 && left_ > 0; ++depth)
      for (PyObject* holder : std::exchange(next_, {})) look_through(holder);
    return missing_ <= 0;
  }

 private:
  /// Deep enough for a variable's attributes, and the items of these: `self.state["w"]`.
  static constexpr int depth_max = 3;

  /// Looks only into plain containers and instances of classes written purely in Python.
  void look_into(PyObject* holder) {
    const PyTypeObject* type = builtin_base(Py_TYPE(holder));
    const bool is_plain = type == &PyList_Type || type == &PyTuple_Type || type == &PyDict_Type ||
                          (type == &PyBaseObject_Type && type != Py_TYPE(holder));
    if (is_plain && met_.insert(holder).second) next_.push_back(holder);
  }

  void look_through(PyObject* holder) {
    for_each_held(holder, [&](PyObject* held) {
      if (held == object_) --missing_;
      look_into(held);
      return --left_ > 0 && missing_ > 0 ? Visit::go_on : Visit::stop;
    });
  }

  PyObject* object_;
  Py_ssize_t missing_;
  int left_ = 1 << 16;  ///< how many references to look at: beyond that a copy costs less
  std::vector<PyObject*> next_;
  boost::unordered_flat_set<PyObject*> met_;
};

}  // namespace

bool has_only_names(nb::handle argument, Py_ssize_t callers) {
  if (Py_REFCNT(argument.ptr()) <= callers) return true;
  const CallersScope scope;
  return Search(argument.ptr(), Py_REFCNT(argument.ptr()) - callers).finds_all(scope);
}

}  // namespace muster::python
