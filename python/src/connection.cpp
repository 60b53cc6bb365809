// The connection as Python sees it.
#include <nanobind/stl/shared_ptr.h>

#include <muster/ipc/device_text.hpp>
#include <muster/ipc/time_limits.hpp>

#include "bindings.hpp"
#include "core/requests.hpp"
#include "gil.hpp"
#include "later.hpp"
#include "objects.hpp"
#include "ops/holds.hpp"

namespace muster::python {

namespace wire = ipc::wire;
using flatbuffers::GetString;

namespace {

nb::dict status(const ConnectionPtr& connection) {
  auto packet = call_unlocked([&] {
    return detail::ask(*connection, wire::Body_StatusQuery, std::chrono::seconds(10),
                       [](auto& fbb) { return wire::CreateStatusQuery(fbb).Union(); });
  });
  let_go_of_what_is_over(connection);
  const auto* reply = wire::GetFrame(packet.bytes.data())->body_as_StatusReply();
  if (!reply) raise(Error(Code::failed, "the daemon's answer to StatusQuery makes no sense"));
  nb::dict found;
  found["version"] = GetString(reply->version());
  found["socket"] = GetString(reply->socket());
  found["pid"] = reply->pid();
  found["uptime_s"] = reply->uptime_s();
  found["memory_bytes"] = reply->memory_bytes();
  found["memory_used_bytes"] = reply->memory_used_bytes();
  found["memory_peak_bytes"] = reply->memory_peak_bytes();
  found["heap_bytes"] = reply->heap_bytes();
  found["heap_used_bytes"] = reply->heap_used_bytes();
  found["maps_max"] = reply->maps_max();
  found["maps_used"] = reply->maps_used();
  found["in_place"] = reply->in_place();
  found["in_place_max"] = reply->in_place_max();
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
  found["simd"] = GetString(reply->simd());
  found["huge_pages"] = GetString(reply->huge_pages());
  found["waiting_for_memory"] = reply->waiting_for_memory();
  nb::list gpus;
  if (reply->gpus())
    for (const auto* gpu : *reply->gpus()) {
      nb::dict one;
      one["device"] = GetString(gpu->device());
      one["memory_bytes"] = gpu->memory_bytes();
      one["memory_used_bytes"] = gpu->memory_used_bytes();
      one["nccl_bytes"] = gpu->nccl_bytes();
      gpus.append(one);
    }
  found["gpus"] = gpus;
  found["nccl_so"] = GetString(reply->nccl_so());
  found["nccl_wheel"] = GetString(reply->nccl_wheel());
  return found;
}

ConnectionPtr connect(nb::handle socket, nb::handle memory, nb::handle pickle_lease, const std::string& folder,
                      const std::string& nccl_wheel, bool start) {
  ConnectOptions options;
  options.socket = string_from(socket, "socket");
  options.memory = string_from(memory, "memory");
  constexpr double seconds_max = std::chrono::duration<double>(ipc::daemon_time_max).count();
  if (!pickle_lease.is_none())
    options.pickle_lease =
        std::chrono::milliseconds(std::llround(seconds_from(pickle_lease, "pickle_lease", seconds_max) * 1e3));
  options.daemon_folder = folder;
  options.nccl_wheel = nccl_wheel;
  options.start_daemon = start;
  return call_unlocked([&] { return Client::connect(options); }).connection();
}

}  // namespace

void bind_connection(nb::module_& module) {
  nb::class_<Connection>(module, "Connection")
      .def_prop_ro("alive", &Connection::alive)
      .def("still_served", [](Connection& self) { return self.still_served(); })
      .def_prop_ro("socket", [](const Connection& self) { return self.welcome().socket; })
      .def_prop_ro("memory_bytes", [](const Connection& self) { return self.welcome().memory_bytes(); })
      .def("poll",
           [](Connection& self) {
             unlocked([&] {
               self.poll();
               return 0;
             });
           })
      .def("event_fd", [](Connection& self) { return call_unlocked([&] { return self.event_fd(); }); })
      .def("owns_address", [](Connection& self, std::uintptr_t address) {
        // NOLINTNEXTLINE(performance-no-int-to-ptr): Python stores addresses as integers
        return self.arena().owns(reinterpret_cast<const void*>(address));
      });
  module.def("connect", &connect, nb::arg("socket").none(), nb::arg("memory").none(), nb::arg("pickle_lease").none(),
             nb::arg("folder"), nb::arg("nccl_wheel"), nb::arg("start"));
  module.def("existing", [](const std::string& socket) { return Connection::existing(socket); });
  module.def(
      "device", [](nb::handle device) { return name(device_from(device)); }, nb::arg("device").none());
  module.def(
      "require_device",
      [](const ConnectionPtr& connection, nb::handle device) {
        if (auto arena = detail::arena_on(*connection, device_from(device)); !arena) raise(arena.error());
      },
      nb::arg("connection"), nb::arg("device").none());
  nb::class_<Token>(module, "Token")
      .def_prop_ro("name", [](const Token& self) { return self.name(); })
      .def_prop_ro("open", &Token::open)
      .def("end", [](Token& self) { call_unlocked([&] { return self.end(); }); });
  module.def("open_token", [](const ConnectionPtr& connection, const std::string& name) {
    return call_unlocked([&] { return Client(connection).open_token(name); });
  });
  module.def("end_token", [](const ConnectionPtr& connection, const std::string& name) {
    call_unlocked([&] { return Client(connection).end_token(name); });
  });
  module.def("status", &status);
  module.def("deserialize", [](const std::string& socket, nb::bytes serialized) {
    const std::string_view bytes(serialized.c_str(), serialized.size());
    auto hold = call_unlocked([&] { return detail::deserialize(bytes, Connection::existing(socket)); });
    return PyRef{Ref(std::move(hold)), 0, {}};
  });
}

}  // namespace muster::python
