// A group as Python sees it.
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include <fmt/format.h>

#include "base/process_end.hpp"
#include "bindings.hpp"
#include "core/protocol/seat.hpp"
#include "gil.hpp"
#include "ops/forfeit.hpp"
#include "work.hpp"

namespace muster::python {

namespace {

struct PyGroup {
  Group group;
};

/// Returns -1 if `value` is None: then the environment decides. Otherwise the value must be `least` or more.
int seat_from(nb::handle value, const char* name, int least, const char* hint) {
  if (value.is_none()) return -1;
  const int number = int_from(value, name);
  if (number < least) raise(Error(Code::invalid, fmt::format("{}={} is out of range", name, number), hint));
  return number;
}

PyGroup join(const ConnectionPtr& connection, nb::handle name, nb::handle rank, nb::handle world_size,
             nb::handle timeout, int on_loss, bool open, nb::handle history) {
  const auto chosen = string_from(name, "name");
  JoinOptions options;
  options.rank = seat_from(rank, "rank", 0, "ranks run from 0 to world_size - 1");
  options.world_size = seat_from(world_size, "world_size", 1, "give the number of ranks, at least 1");
  options.timeout = std::chrono::ceil<std::chrono::milliseconds>(deadline_of_all_ops_from(timeout));
  options.on_loss = static_cast<OnLoss>(on_loss);
  options.open = open;
  options.history = string_from(history, "history");
  return {call_unlocked([&] { return Client(connection).join(chosen, options); })};
}

// ---- ops ----

// Each struct below describes one kind of argument: its type in Python (`Given`), and how to convert it to C++ (`from`,
// which needs the GIL).

struct Input {
  using Given = const PyRef&;
  [[nodiscard]] static auto arg() { return nb::arg("input"); }
  [[nodiscard]] static const Ref& from(const PyRef& given) { return given.ref; }
};

struct Inputs {
  using Given = const std::vector<PyRef>&;
  [[nodiscard]] static auto arg() { return nb::arg("inputs"); }
  [[nodiscard]] static std::vector<Ref> from(const std::vector<PyRef>& given) { return refs_from(given); }
};

/// An input on the root, none on other ranks.
struct InputOfRoot {
  using Given = const std::vector<PyRef>&;
  [[nodiscard]] static auto arg() { return nb::arg("input"); }
  [[nodiscard]] static Ref from(const std::vector<PyRef>& given) { return given.empty() ? Ref() : given.front().ref; }
};

struct Op {
  using Given = int;
  [[nodiscard]] static auto arg() { return nb::arg("op"); }
  [[nodiscard]] static ReduceOp from(int given) { return op_from(given); }
};

struct Rank {
  const char* name;
  using Given = nb::handle;
  [[nodiscard]] auto arg() const { return nb::arg(name).none(); }
  [[nodiscard]] int from(nb::handle given) const { return int_from(given, name); }
};

struct Tag {
  using Given = nb::handle;
  [[nodiscard]] static auto arg() { return nb::arg("tag").none(); }
  [[nodiscard]] static std::int64_t from(nb::handle given) { return int64_from(given, "tag"); }
};

/// Whether the values of all ranks become one array.
struct Joined {
  const char* name;
  using Given = bool;
  [[nodiscard]] auto arg() const { return nb::arg(name); }
  [[nodiscard]] static bool from(bool given) { return given; }
};

/// What a rank gets from an op: one value, or one for each rank (unless they were joined).
enum class Gives : std::uint8_t { value, values };

template <class T>
bool is_joined(const T& argument) {
  if constexpr (std::is_same_v<T, bool>) return argument;
  return false;
}

/// Binds a method of Group that starts an op.
template <auto start, class... Arguments>
void def_op(nb::class_<PyGroup>& group, const char* name, Gives gives, Arguments... arguments) {
  const auto call = [gives, arguments...](PyGroup& self, typename Arguments::Given... given, nb::handle timeout,
                                          nb::handle key) {
    // Converts in this order, so that the first of several mistakes is reported.
    const std::tuple<decltype(arguments.from(given))...> converted{arguments.from(given)...};
    const OpOptions options{deadline_from(timeout), string_from(key, "key")};
    const auto with_arguments = [&](const auto&... each) {
      const bool as_list = gives == Gives::values && !(is_joined(each) || ...);
      return PyWork{call_unlocked([&] { return (self.group.*start)(each..., options); }), as_list};
    };
    return std::apply(with_arguments, converted);
  };
  group.def(name, call, arguments.arg()..., nb::arg("timeout").none(), nb::arg("key").none());
}

void bind_ops(nb::class_<PyGroup>& group) {
  def_op<&Group::allreduce>(group, "allreduce", Gives::value, Input{}, Op{});
  def_op<&Group::reduce>(group, "reduce", Gives::value, Input{}, Rank{"root"}, Op{});
  def_op<&Group::scan>(group, "scan", Gives::value, Input{}, Op{});
  def_op<&Group::broadcast>(group, "broadcast", Gives::value, InputOfRoot{}, Rank{"root"});
  def_op<&Group::allgather>(group, "allgather", Gives::values, Input{}, Joined{"stack"});
  def_op<&Group::gather>(group, "gather", Gives::values, Input{}, Rank{"root"});
  def_op<&Group::scatter>(group, "scatter", Gives::value, Inputs{}, Rank{"root"});
  def_op<&Group::reduce_scatter>(group, "reduce_scatter", Gives::value, Inputs{}, Op{});
  def_op<&Group::all_to_all>(group, "all_to_all", Gives::values, Inputs{}, Joined{"concat"});
  def_op<&Group::send>(group, "send", Gives::value, Input{}, Rank{"dst"}, Tag{});
  def_op<&Group::recv>(group, "recv", Gives::value, Rank{"src"}, Tag{});
  def_op<&Group::barrier>(group, "barrier", Gives::value);
}

void forfeit(PyGroup& self, int kind, int peer, std::int64_t tag, const std::string& key, const std::string& code,
             const std::string& message) {
  ipc::Contribute call;
  call.kind = static_cast<ipc::Kind>(kind);
  call.root = peer;
  call.tag = tag;
  call.key = key;
  Code why = Code::failed;
  for (std::size_t each = 1; each <= code_count; ++each)
    if (name(static_cast<Code>(each)) == code) why = static_cast<Code>(each);
  const WithoutGil release;
  detail::forfeit(self.group.seat(), std::move(call), {why, message});
}

// ---- membership ----

nb::list owes(const PyGroup& self) {
  nb::list owes;
  for (const auto& owed : self.group.owes()) owes.append(nb::make_tuple(owed.kind, owed.sequence, owed.key));
  return owes;
}

nb::object split(PyGroup& self, nb::handle color, nb::handle key, nb::handle timeout) {
  const auto options = options_from(timeout);
  const int chosen = int_from(color, "color");
  const int order = int_from(key, "key");
  auto made = call_unlocked([&] { return self.group.split(chosen, order, options); });
  if (!made.seat()) return nb::none();
  return nb::cast(PyGroup{std::move(made)});
}

PyGroup subgroup(PyGroup& self, const nb::list& ranks) {
  std::vector<int> members;
  for (const nb::handle rank : ranks) members.push_back(int_from(rank, "rank"));
  return {call_unlocked([&] { return self.group.subgroup(members); })};
}

void reform(PyGroup& self, nb::handle timeout) {
  const auto options = options_from(timeout);
  call_unlocked([&] { return self.group.reform(options); });
}

double timeout_s(const PyGroup& self) { return std::chrono::duration<double>(self.group.seat()->timeout).count(); }

}  // namespace

void bind_group(nb::module_& module) {
  nb::class_<PyGroup> group(module, "Group");
  group.def_prop_ro("name", [](const PyGroup& self) { return self.group.name(); })
      .def_prop_ro("rank", [](const PyGroup& self) { return self.group.rank(); })
      .def_prop_ro("world_size", [](const PyGroup& self) { return self.group.world_size(); })
      .def_prop_ro("timeout", &timeout_s)
      .def_prop_ro("epoch", [](const PyGroup& self) { return unlocked([&] { return self.group.epoch(); }); })
      .def_prop_ro("live", [](const PyGroup& self) { return unlocked([&] { return self.group.live(); }); })
      .def_prop_ro("position", [](const PyGroup& self) { return self.group.position(); })
      .def_prop_ro("owes", &owes)
      .def("forfeit", &forfeit)
      .def("split", &split, nb::arg("color").none(), nb::arg("key").none(), nb::arg("timeout").none())
      .def("subgroup", &subgroup)
      .def("reform", &reform, nb::arg("timeout").none())
      .def("leave", [](PyGroup& self) { call_unlocked([&] { return self.group.leave(); }); });
  bind_ops(group);
  module.def("calls_of_thread", &detail::calls_of_thread);
  module.def("process_ends", &detail::process_ends);
  module.def("join", &join, nb::arg("connection"), nb::arg("name").none(), nb::arg("rank").none(),
             nb::arg("world_size").none(), nb::arg("timeout").none(), nb::arg("on_loss"), nb::arg("open"),
             nb::arg("history"));
}

}  // namespace muster::python
