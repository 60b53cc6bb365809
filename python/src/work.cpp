#include "work.hpp"

#include <unistd.h>

#include <nanobind/stl/function.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include "base/bounded_time.hpp"
#include "bindings.hpp"
#include "gil.hpp"
#include "ops/holds.hpp"
#include "ops/objects.hpp"

namespace muster::python {

namespace {

Outcome outcome_of(const PyWork& self, nb::handle timeout) {
  const auto bound = timeout_from(timeout);
  return call_unlocked([&] { return self.work.wait(bound); });
}

nb::object result_of(const PyWork& self, nb::handle timeout) {
  const auto bound = timeout_from(timeout);
  const auto begin = std::chrono::steady_clock::now();
  // Waits and maps without the GIL in one step: letting go of the GIL and taking it again costs as much as either.
  const auto objects = call_unlocked([&]() -> Result<std::vector<Opened>> {
    const auto outcome = self.work.wait(bound);
    if (!outcome) return outcome.error();
    std::vector<Opened> opened;
    opened.reserve(outcome->refs.size());
    for (const auto& ref : outcome->refs) {
      auto one = open(ref, detail::left_of(bound, begin));
      if (!one) return one.error();
      opened.push_back(std::move(*one));
    }
    return opened;
  });
  if (objects.empty()) return nb::none();
  if (!self.as_list) return value_of(objects.front());
  nb::list values;
  for (const auto& object : objects) values.append(value_of(object));
  return values;
}

nb::object ref_of(const PyWork& self, nb::handle timeout) {
  const Outcome outcome = outcome_of(self, timeout);
  if (outcome.refs.empty()) return nb::none();
  if (!self.as_list) return nb::cast(PyRef{outcome.refs.front(), 0, {}});
  nb::list refs;
  for (const auto& ref : outcome.refs) refs.append(nb::cast(PyRef{ref, 0, {}}));
  return refs;
}

void add_done_callback(const PyWork& self, nb::object callback) {
  // A thread without the GIL may drop the callback.
  auto kept = std::shared_ptr<nb::object>(new nb::object(std::move(callback)), [](nb::object* object) {
    const WithGil gil;
    delete object;
  });
  const WithoutGil release;
  self.work.on_done([kept] {
    const WithGil gil;
    try {
      (*kept)();
    } catch (nb::python_error& error) {
      error.discard_as_unraisable("a callback of muster.Work");
    }
  });
}

/// Writes a byte: nothing of Python, where a handler of signals might raise.
void write_when_done(const PyWork& self, int fd) {
  const WithoutGil release;
  self.work.on_done([fd] { [[maybe_unused]] const auto written = ::write(fd, "!", 1); });
}

PyWork combine(const ConnectionPtr& connection, int kind, const std::vector<PyRef>& inputs, std::uint32_t ranks, int op,
               nb::handle root, bool stack, bool as_list, nb::handle timeout) {
  ipc::Combine record;
  record.kind = static_cast<ipc::Kind>(kind);
  record.op = op_from(op);
  record.layout = stack ? ipc::Layout::stack : ipc::Layout::parts;
  record.root = int_from(root, "root");
  record.ranks = ranks;
  const auto refs = refs_from(inputs);
  const auto options = options_from(timeout);
  return {call_unlocked([&] { return detail::combine(connection, record, refs, options); }), as_list};
}

}  // namespace

void bind_work(nb::module_& module) {
  nb::class_<PyWork>(module, "Work")
      .def("done", [](const PyWork& self) { return unlocked([&] { return self.work.done(); }); })
      .def("result", &result_of, nb::arg("timeout").none())
      .def("ref", &ref_of, nb::arg("timeout").none())
      .def(
          "wait", [](const PyWork& self, nb::handle timeout) { static_cast<void>(outcome_of(self, timeout)); },
          nb::arg("timeout").none())
      .def("contributors", [](const PyWork& self) { return outcome_of(self, nb::none()).contributors; })
      .def("add_done_callback", &add_done_callback)
      .def("write_when_done", &write_when_done);
  module.def("combine", &combine, nb::arg("connection"), nb::arg("kind"), nb::arg("inputs"), nb::arg("ranks"),
             nb::arg("op"), nb::arg("root").none(), nb::arg("stack"), nb::arg("as_list"), nb::arg("timeout").none());
}

}  // namespace muster::python
