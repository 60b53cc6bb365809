// Connection, groups and works as Python sees them; the friendly names are in muster/*.py.
#include <nanobind/stl/function.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include <muster/ipc/byte_count.hpp>
#include <muster/ipc/time_limits.hpp>

#include "bindings.hpp"
#include "base/bounded_time.hpp"
#include "ops/forfeit.hpp"
#include "gil.hpp"
#include "ops/holds.hpp"
#include "ops/objects.hpp"
#include "objects.hpp"
#include "core/requests.hpp"
#include "core/protocol/seat.hpp"
#include "structure.hpp"

namespace muster::python {

namespace wire = ipc::wire;

namespace {

struct PyWork {
  Work work;
  bool as_list = false;  ///< the rank gets one object of each rank
};

struct PyGroup {
  Group group;
};

ReduceOp op_from(int number) { return static_cast<ReduceOp>(number); }

OpOptions options_from(nb::handle timeout) { return {deadline_from(timeout), {}}; }
OpOptions options_from(nb::handle timeout, nb::handle key) { return {deadline_from(timeout), string_from(key, "key")}; }

std::vector<Ref> refs_from(const std::vector<PyRef>& inputs) {
  std::vector<Ref> refs;
  refs.reserve(inputs.size());
  for (const auto& input : inputs) refs.push_back(input.ref);
  return refs;
}

Outcome outcome_of(const PyWork& self, nb::handle timeout) {
  const auto bound = timeout_from(timeout);
  return value_or_raise(unlocked([&] { return self.work.wait(bound); }));
}

nb::object result_of(const PyWork& self, nb::handle timeout) {
  const auto bound = timeout_from(timeout);
  const auto begin = std::chrono::steady_clock::now();
  // Waiting and mapping in one go: to give the GIL up and get it back costs as much as either.
  const auto objects = value_or_raise(unlocked([&]() -> Result<std::vector<Opened>> {
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
  }));
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
  // The callback may be dropped by a thread without the GIL.
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

nb::dict status(const ConnectionPtr& connection) {
  auto packet = value_or_raise(unlocked([&] {
    return detail::ask(*connection, wire::Body_StatusQuery, std::chrono::seconds(10),
                       [](auto& fbb) { return wire::CreateStatusQuery(fbb).Union(); });
  }));
  const auto* reply = wire::GetFrame(packet.bytes.data())->body_as_StatusReply();
  if (!reply) raise(Error(Code::failed, "the daemon's answer to StatusQuery makes no sense"));
  nb::dict found;
  const auto text = [](const flatbuffers::String* string) { return string ? string->str() : std::string(); };
  found["version"] = text(reply->version());
  found["socket"] = text(reply->socket());
  found["pid"] = reply->pid();
  found["uptime_s"] = reply->uptime_s();
  found["memory_bytes"] = reply->memory_bytes();
  found["memory_used_bytes"] = reply->memory_used_bytes();
  found["memory_peak_bytes"] = reply->memory_peak_bytes();
  found["heap_bytes"] = reply->heap_bytes();
  found["heap_used_bytes"] = reply->heap_used_bytes();
  found["clients"] = reply->clients();
  found["groups"] = reply->groups();
  found["objects"] = reply->objects();
  found["segments"] = reply->segments();
  found["ops_done"] = reply->ops_done();
  found["ops_failed"] = reply->ops_failed();
  found["ops_in_flight"] = reply->ops_in_flight();
  found["bytes_deposited"] = reply->bytes_deposited();
  found["bytes_copied"] = reply->bytes_copied();
  found["bytes_reduced"] = reply->bytes_reduced();
  found["lanes"] = reply->lanes();
  found["simd"] = text(reply->simd());
  found["huge_pages"] = text(reply->huge_pages());
  found["waiting_for_memory"] = reply->waiting_for_memory();
  return found;
}

ConnectionPtr connect(nb::handle socket, nb::handle memory, nb::handle pickle_lease, const std::string& folder,
                      bool start) {
  ConnectOptions options;
  options.socket = string_from(socket, "socket");
  options.memory = string_from(memory, "memory");
  constexpr double seconds_max = std::chrono::duration<double>(ipc::daemon_time_max).count();
  if (!pickle_lease.is_none())
    options.pickle_lease =
        std::chrono::milliseconds(std::llround(seconds_from(pickle_lease, "pickle_lease", seconds_max) * 1e3));
  options.daemon_folder = folder;
  options.start_daemon = start;
  return value_or_raise(unlocked([&] { return Client::connect(options); })).connection();
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
  return {value_or_raise(unlocked([&] { return detail::combine(connection, record, refs, options); })), as_list};
}

/// What the environment says if it is None; `least` or more otherwise.
int seat_from(nb::handle value, const char* name, int least, const char* hint) {
  if (value.is_none()) return -1;
  const int number = int_from(value, name);
  if (number < least) raise(Error(Code::invalid, std::string(name) + "=" + std::to_string(number), hint));
  return number;
}

PyGroup join(const ConnectionPtr& connection, nb::handle name, nb::handle rank, nb::handle world_size,
             nb::handle timeout, int on_loss, bool open) {
  const auto chosen = string_from(name, "name");
  JoinOptions options;
  options.rank = seat_from(rank, "rank", 0, "ranks run from 0 to world_size - 1");
  options.world_size = seat_from(world_size, "world_size", 1, "give the number of ranks, at least 1");
  const auto bound = deadline_from(timeout);
  if (!bound || *bound <= std::chrono::nanoseconds(0))
    raise(Error(Code::invalid, "timeout=" + text_of(timeout), "give a positive number of seconds"));
  options.timeout = std::chrono::ceil<std::chrono::milliseconds>(*bound);
  options.on_loss = static_cast<OnLoss>(on_loss);
  options.open = open;
  return {value_or_raise(unlocked([&] { return Client(connection).join(chosen, options); }))};
}

using Start = std::function<Result<Work>(Group&, const OpOptions&)>;

PyWork started(PyGroup& self, nb::handle timeout, nb::handle key, bool as_list, const Start& start) {
  const auto options = options_from(timeout, key);
  return {value_or_raise(unlocked([&] { return start(self.group, options); })), as_list};
}

void bind_group(nb::module_& module) {
  const auto t = nb::arg("timeout").none();
  nb::class_<PyGroup>(module, "Seat")
      .def_prop_ro("name", [](const PyGroup& self) { return self.group.name(); })
      .def_prop_ro("rank", [](const PyGroup& self) { return self.group.rank(); })
      .def_prop_ro("world_size", [](const PyGroup& self) { return self.group.world_size(); })
      .def_prop_ro(
          "timeout",
          [](const PyGroup& self) { return std::chrono::duration<double>(self.group.seat()->timeout).count(); })
      .def_prop_ro("epoch", [](const PyGroup& self) { return unlocked([&] { return self.group.epoch(); }); })
      .def_prop_ro("live", [](const PyGroup& self) { return unlocked([&] { return self.group.live(); }); })
      .def_prop_ro("position", [](const PyGroup& self) { return self.group.position(); })
      .def_prop_ro("owes",
                   [](const PyGroup& self) {
                     nb::list owes;
                     for (const auto& owed : self.group.owes())
                       owes.append(nb::make_tuple(owed.kind, owed.sequence, owed.key));
                     return owes;
                   })
      .def(
          "allreduce",
          [](PyGroup& self, const PyRef& input, int op, nb::handle timeout, nb::handle key) {
            return started(self, timeout, key, false,
                           [&](Group& g, const OpOptions& o) { return g.allreduce(input.ref, op_from(op), o); });
          },
          nb::arg("input"), nb::arg("op"), t, nb::arg("key").none())
      .def(
          "reduce",
          [](PyGroup& self, const PyRef& input, nb::handle root, int op, nb::handle timeout, nb::handle key) {
            const int rank = int_from(root, "root");
            return started(self, timeout, key, false,
                           [&](Group& g, const OpOptions& o) { return g.reduce(input.ref, rank, op_from(op), o); });
          },
          nb::arg("input"), nb::arg("root").none(), nb::arg("op"), t, nb::arg("key").none())
      .def(
          "scan",
          [](PyGroup& self, const PyRef& input, int op, nb::handle timeout, nb::handle key) {
            return started(self, timeout, key, false,
                           [&](Group& g, const OpOptions& o) { return g.scan(input.ref, op_from(op), o); });
          },
          nb::arg("input"), nb::arg("op"), t, nb::arg("key").none())
      .def(
          "broadcast",
          [](PyGroup& self, const std::vector<PyRef>& input, nb::handle root, nb::handle timeout, nb::handle key) {
            const int rank = int_from(root, "root");
            const Ref ref = input.empty() ? Ref() : input.front().ref;
            return started(self, timeout, key, false,
                           [&](Group& g, const OpOptions& o) { return g.broadcast(ref, rank, o); });
          },
          nb::arg("input"), nb::arg("root").none(), t, nb::arg("key").none())
      .def(
          "allgather",
          [](PyGroup& self, const PyRef& input, bool stack, nb::handle timeout, nb::handle key) {
            return started(self, timeout, key, !stack,
                           [&](Group& g, const OpOptions& o) { return g.allgather(input.ref, stack, o); });
          },
          nb::arg("input"), nb::arg("stack"), t, nb::arg("key").none())
      .def(
          "gather",
          [](PyGroup& self, const PyRef& input, nb::handle root, nb::handle timeout, nb::handle key) {
            const int rank = int_from(root, "root");
            return started(self, timeout, key, true,
                           [&](Group& g, const OpOptions& o) { return g.gather(input.ref, rank, o); });
          },
          nb::arg("input"), nb::arg("root").none(), t, nb::arg("key").none())
      .def(
          "scatter",
          [](PyGroup& self, const std::vector<PyRef>& inputs, nb::handle root, nb::handle timeout, nb::handle key) {
            const int rank = int_from(root, "root");
            const auto refs = refs_from(inputs);
            return started(self, timeout, key, false,
                           [&](Group& g, const OpOptions& o) { return g.scatter(refs, rank, o); });
          },
          nb::arg("inputs"), nb::arg("root").none(), t, nb::arg("key").none())
      .def(
          "reduce_scatter",
          [](PyGroup& self, const std::vector<PyRef>& inputs, int op, nb::handle timeout, nb::handle key) {
            const auto refs = refs_from(inputs);
            return started(self, timeout, key, false,
                           [&](Group& g, const OpOptions& o) { return g.reduce_scatter(refs, op_from(op), o); });
          },
          nb::arg("inputs"), nb::arg("op"), t, nb::arg("key").none())
      .def(
          "all_to_all",
          [](PyGroup& self, const std::vector<PyRef>& inputs, bool concat, nb::handle timeout, nb::handle key) {
            const auto refs = refs_from(inputs);
            return started(self, timeout, key, !concat,
                           [&](Group& g, const OpOptions& o) { return g.all_to_all(refs, concat, o); });
          },
          nb::arg("inputs"), nb::arg("concat"), t, nb::arg("key").none())
      .def(
          "send",
          [](PyGroup& self, const PyRef& input, nb::handle dst, nb::handle tag, nb::handle timeout, nb::handle key) {
            const int rank = int_from(dst, "dst");
            const std::int64_t number = int64_from(tag, "tag");
            return started(self, timeout, key, false,
                           [&](Group& g, const OpOptions& o) { return g.send(input.ref, rank, number, o); });
          },
          nb::arg("input"), nb::arg("dst").none(), nb::arg("tag").none(), t, nb::arg("key").none())
      .def(
          "recv",
          [](PyGroup& self, nb::handle src, nb::handle tag, nb::handle timeout, nb::handle key) {
            const int rank = int_from(src, "src");
            const std::int64_t number = int64_from(tag, "tag");
            return started(self, timeout, key, false,
                           [&](Group& g, const OpOptions& o) { return g.recv(rank, number, o); });
          },
          nb::arg("src").none(), nb::arg("tag").none(), t, nb::arg("key").none())
      .def(
          "barrier",
          [](PyGroup& self, nb::handle timeout, nb::handle key) {
            return started(self, timeout, key, false, [&](Group& g, const OpOptions& o) { return g.barrier(o); });
          },
          t, nb::arg("key").none())
      .def(
          "split",
          [](PyGroup& self, nb::handle color, nb::handle key, nb::handle timeout) -> nb::object {
            const auto options = options_from(timeout);
            const int chosen = int_from(color, "color");
            const int order = int_from(key, "key");
            auto made = value_or_raise(unlocked([&] { return self.group.split(chosen, order, options); }));
            if (!made.seat()) return nb::none();
            return nb::cast(PyGroup{std::move(made)});
          },
          nb::arg("color").none(), nb::arg("key").none(), t)
      .def_prop_ro("calls", [](const PyGroup& self) { return detail::calls(*self.group.seat()); })
      .def("forfeit",
           [](PyGroup& self, int kind, int peer, std::int64_t tag, const std::string& key, const std::string& code,
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
           })
      .def("subgroup",
           [](PyGroup& self, const nb::list& ranks) {
             std::vector<int> members;
             for (const nb::handle rank : ranks) members.push_back(int_from(rank, "rank"));
             return PyGroup{value_or_raise(unlocked([&] { return self.group.subgroup(members); }))};
           })
      .def(
          "reform",
          [](PyGroup& self, nb::handle timeout) {
            const auto options = options_from(timeout);
            value_or_raise(unlocked([&] { return self.group.reform(options); }));
          },
          t)
      .def("leave", [](PyGroup& self) { value_or_raise(unlocked([&] { return self.group.leave(); })); });
}

nb::str as_str(std::string_view text) { return nb::str(text.data(), text.size()); }

/// The names and limits that Python shares, each name with its number.
void bind_names(nb::module_& module) {
  nb::dict kinds, reduce_ops, on_loss;
  for (std::size_t each = 0; each < ipc::kind_count; ++each) kinds[as_str(name(static_cast<ipc::Kind>(each)))] = each;
  for (std::size_t each = 0; each < reduce_op_count; ++each)
    reduce_ops[as_str(name(static_cast<ReduceOp>(each)))] = each;
  for (const auto policy : {OnLoss::fail, OnLoss::shrink, OnLoss::wait})
    on_loss[as_str(name(policy))] = static_cast<int>(policy);
  nb::list codes;
  for (std::size_t each = 1; each <= code_count; ++each) codes.append(as_str(name(static_cast<Code>(each))));
  module.attr("codes") = codes;
  module.attr("kinds") = kinds;
  module.attr("reduce_ops") = reduce_ops;
  module.attr("on_loss") = on_loss;
  module.attr("group_timeout_s") = std::chrono::duration<double>(JoinOptions().timeout).count();
  module.attr("constant_bytes_max") = ipc::constant_bytes_max;
}

}  // namespace

void bind_client(nb::module_& module) {
  bind_names(module);
  nb::class_<Connection>(module, "Connection")
      .def_prop_ro("alive", &Connection::alive)
      .def_prop_ro("socket", [](const Connection& self) { return self.welcome().socket; })
      .def_prop_ro("memory_bytes", [](const Connection& self) { return self.welcome().memory_bytes; })
      .def("poll",
           [](Connection& self) {
             unlocked([&] {
               self.poll();
               return 0;
             });
           })
      .def("event_fd", [](Connection& self) { return value_or_raise(unlocked([&] { return self.event_fd(); })); })
      .def("owns_address", [](Connection& self, std::uintptr_t address) {
        // NOLINTNEXTLINE(performance-no-int-to-ptr): Python has addresses as integers
        return self.arena().owns(reinterpret_cast<const void*>(address));
      });
  nb::class_<PyWork>(module, "Started")
      .def("done", [](const PyWork& self) { return unlocked([&] { return self.work.done(); }); })
      .def("result", &result_of, nb::arg("timeout").none())
      .def("ref", &ref_of, nb::arg("timeout").none())
      .def(
          "wait", [](const PyWork& self, nb::handle timeout) { static_cast<void>(outcome_of(self, timeout)); },
          nb::arg("timeout").none())
      .def("contributors", [](const PyWork& self) { return outcome_of(self, nb::none()).contributors; })
      .def("add_done_callback", &add_done_callback);
  bind_group(module);
  module.def("connect", &connect, nb::arg("socket").none(), nb::arg("memory").none(), nb::arg("pickle_lease").none(),
             nb::arg("folder"), nb::arg("start"));
  module.def("existing", [](const std::string& socket) { return Connection::existing(socket); });
  module.def("join", &join, nb::arg("connection"), nb::arg("name").none(), nb::arg("rank").none(),
             nb::arg("world_size").none(), nb::arg("timeout").none(), nb::arg("on_loss"), nb::arg("open"));
  module.def("result_dtype", [](const std::string& dtype, int op) -> std::optional<std::string> {
    const auto known = dtype_named(dtype);
    const auto result = known ? result_dtype(*known, op_from(op)) : std::nullopt;
    return result ? std::optional(std::string(name(*result))) : std::nullopt;
  });
  module.def("combine", &combine, nb::arg("connection"), nb::arg("kind"), nb::arg("inputs"), nb::arg("ranks"),
             nb::arg("op"), nb::arg("root").none(), nb::arg("stack"), nb::arg("as_list"), nb::arg("timeout").none());
  module.def(
      "seconds",
      [](nb::handle timeout) -> std::optional<double> {
        const auto bound = timeout_from(timeout);
        if (!bound) return std::nullopt;
        return std::chrono::duration<double>(*bound).count();
      },
      nb::arg("timeout").none());
  module.def("integer", &int_from, nb::arg("value").none(), nb::arg("name"));
  module.def(
      "check_deadline", [](nb::handle timeout) { static_cast<void>(deadline_from(timeout)); },
      nb::arg("timeout").none());
  module.def("status", &status);
  module.def("bytes_text", [](std::uint64_t bytes) { return ipc::bytes_text(bytes); });
  module.def("over_text", &ipc::over_text);
  module.def("from_token", [](const std::string& socket, nb::bytes token) {
    const std::string_view bytes(token.c_str(), token.size());
    auto hold = unlocked([&] { return detail::deserialize(bytes, Connection::existing(socket)); });
    return PyRef{Ref(value_or_raise(std::move(hold))), 0, {}};
  });
}

}  // namespace muster::python
