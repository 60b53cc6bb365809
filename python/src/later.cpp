#include "later.hpp"

#include <mutex>
#include <utility>
#include <vector>

#include "core/connection.hpp"
#include "gil.hpp"

namespace muster::python {

namespace {

/// Never destroyed: threads may end objects while the process ends.
struct Due {
  std::mutex mutex;  ///< nothing is locked under it, and no code of Python runs
  std::vector<PyObject*> objects;
};

Due& due() {
  static auto* const all = new Due;
  return *all;
}

void end_what_is_due() {
  std::vector<PyObject*> ending;
  {
    const std::lock_guard lock(due().mutex);
    ending.swap(due().objects);
  }
  for (auto* object : ending) Py_DECREF(object);
}

int end_due_pending(void* /*unused*/) {
  end_what_is_due();
  return 0;
}

/// Without memory to note it, the object stays for ever.
void end_later(PyObject* object) noexcept try {
  bool is_first = false;
  {
    const std::lock_guard lock(due().mutex);
    is_first = due().objects.empty();
    due().objects.push_back(object);
  }
  // One such call ends them all. If the interpreter has no room for it, the next put() does.
  if (is_first) Py_AddPendingCall(&end_due_pending, nullptr);
} catch (const std::exception&) {
}

}  // namespace

std::shared_ptr<const void> kept_for_others(nb::object object) {
  return {object.release().ptr(), [](const void* kept) { end_later(static_cast<PyObject*>(const_cast<void*>(kept))); }};
}

void let_go_of_what_is_over(const ConnectionPtr& connection) {
  if (connection->left_in_place().keeps_any()) unlocked([&] { connection->poll(); });
  end_what_is_due();
}

}  // namespace muster::python
