// The commands status, ls and groups print what the daemon reports: as tables for people, or as JSON for programs.
#include <algorithm>
#include <cstdio>
#include <string>

#include <fmt/format.h>

#include <muster/ipc/byte_count.hpp>
#include <muster/ipc/ids.hpp>
#include <muster/ipc/json.hpp>

#include "../message.hpp"
#include "../text.hpp"
#include "daemon_commands.hpp"
#include "inquiry.hpp"

namespace muster::cli {

using flatbuffers::GetString;

namespace {

template <class T>
std::vector<const T*> items(const flatbuffers::Vector<flatbuffers::Offset<T>>* list) {
  std::vector<const T*> found;
  if (list != nullptr) found.assign(list->begin(), list->end());
  return found;
}

std::vector<std::string> texts(const flatbuffers::Vector<flatbuffers::Offset<flatbuffers::String>>* list) {
  std::vector<std::string> found;
  for (const auto* one : items(list)) found.push_back(GetString(one));
  return found;
}

std::vector<std::int64_t> shape_of(const wire::ObjectInfo& object) {
  if (object.shape() == nullptr) return {};
  return {object.shape()->begin(), object.shape()->end()};
}

void print(const std::string& output) { std::fputs(output.c_str(), stdout); }

/// All clients but this command's own connection.
std::vector<const wire::ClientInfo*> others(const wire::Clients& clients, std::uint32_t own) {
  auto found = items(clients.clients());
  std::erase_if(found, [own](const wire::ClientInfo* client) { return client->client() == own; });
  return found;
}

Table users_table(const wire::StatusReply& status) {
  Table users({{"USER"},
               {"MEMORY", Align::right},
               {"PEAK", Align::right},
               {"OBJECTS", Align::right},
               {"FDS", Align::right},
               {"MAPS", Align::right},
               {"IN FLIGHT", Align::right}});
  for (const auto* user : items(status.users()))
    users.add({GetString(user->name()), ipc::bytes_text(user->memory_bytes()), ipc::bytes_text(user->peak_bytes()),
               format_count(user->objects()), format_count(user->fds()), format_count(user->maps()),
               format_count(user->in_flight())});
  return users;
}

Table clients_table(const std::vector<const wire::ClientInfo*>& clients) {
  Table table({{"CLIENT"},
               {"PID", Align::right},
               {"MEMORY", Align::right},
               {"MADE", Align::right},
               {"HOLDS", Align::right},
               {"IN FLIGHT", Align::right},
               {"LAST HEARD", Align::right}});
  for (const auto* client : clients)
    table.add({GetString(client->name()), std::to_string(client->pid()), ipc::bytes_text(client->memory_bytes()),
               format_count(client->objects()), format_count(client->held()), format_count(client->in_flight()),
               format_age(client->idle_s()) + " ago"});
  return table;
}

std::string status_text(const wire::StatusReply& status, const std::vector<const wire::ClientInfo*>& clients) {
  std::string out = fmt::format("musterd {}, pid {}, up {}\n", GetString(status.version()), status.pid(),
                                format_age(status.uptime_s()));
  const auto line = [&out](const std::string& name, const std::string& content) {
    out += fmt::format("  {:<9}{}\n", name, content);
  };
  line("socket", GetString(status.socket()));
  line("log", GetString(status.log()));
  line("memory", fmt::format("{} of {} used, peak {}", ipc::bytes_text(status.memory_used_bytes()),
                             ipc::bytes_text(status.memory_bytes()), ipc::bytes_text(status.memory_peak_bytes())));
  for (const auto* gpu : items(status.gpus()))
    line(GetString(gpu->device()),
         fmt::format("{} of {} used", ipc::bytes_text(gpu->memory_used_bytes()), ipc::bytes_text(gpu->memory_bytes())) +
             (gpu->nccl_bytes() > 0 ? fmt::format(", beside it {} by NCCL", ipc::bytes_text(gpu->nccl_bytes())) : ""));
  if (status.in_place() > 0)
    line("in place", fmt::format("{} of at most {} left where their owners have them",
                                 plural(status.in_place(), "allocation"), format_count(status.in_place_max())));
  line("heap", fmt::format("{} of {} charged", ipc::bytes_text(status.heap_used_bytes()),
                           ipc::bytes_text(status.heap_bytes())));
  if (status.waiting_for_memory() > 0) line("", plural(status.waiting_for_memory(), "request") + " wait for memory");
  line("objects", fmt::format("{} in {}", format_count(status.objects()), plural(status.segments(), "segment")));
  line("groups", format_count(status.groups()));
  line("ops", fmt::format("{} done, {} failed, {} in flight", format_count(status.ops_done()),
                          format_count(status.ops_failed()), format_count(status.ops_in_flight())));
  line("bytes", fmt::format("{} deposited, {} of them copied, {} reduced", ipc::bytes_text(status.bytes_deposited()),
                            ipc::bytes_text(status.bytes_copied()), ipc::bytes_text(status.bytes_reduced())));
  std::vector<std::string> machine{plural(status.lanes(), "lane"), GetString(status.simd()),
                                   GetString(status.huge_pages())};
  std::erase(machine, "");
  line("machine", join(machine, ", "));
  const std::size_t shown = items(status.users()).size();
  if (shown > 0) out += "\n" + users_table(status).render();
  if (status.users_total() > shown) out += fmt::format("and {}\n", plural(status.users_total() - shown, "more user"));
  return out + (clients.empty() ? "\nno clients\n" : "\n" + clients_table(clients).render());
}

std::string status_json(const wire::StatusReply& status, const std::vector<const wire::ClientInfo*>& clients) {
  ipc::JsonWriter json;
  json.begin_object().field("version", GetString(status.version())).field("pid", status.pid());
  json.field("uptime_s", status.uptime_s()).field("socket", GetString(status.socket()));
  json.field("incarnation", std::to_string(status.incarnation())).field("log", GetString(status.log()));
  json.field("memory_bytes", status.memory_bytes()).field("memory_used_bytes", status.memory_used_bytes());
  json.field("memory_peak_bytes", status.memory_peak_bytes()).field("objects", status.objects());
  json.field("heap_bytes", status.heap_bytes()).field("heap_used_bytes", status.heap_used_bytes());
  json.field("maps_max", status.maps_max()).field("maps_used", status.maps_used());
  json.field("segments", status.segments()).field("groups", status.groups()).field("lanes", status.lanes());
  json.field("huge_pages", GetString(status.huge_pages())).field("simd", GetString(status.simd()));
  json.field("nccl_so", GetString(status.nccl_so())).field("nccl_wheel", GetString(status.nccl_wheel()));
  json.field("waiting_for_memory", status.waiting_for_memory()).field("ops_done", status.ops_done());
  json.field("ops_failed", status.ops_failed()).field("ops_in_flight", status.ops_in_flight());
  json.field("bytes_deposited", status.bytes_deposited()).field("bytes_copied", status.bytes_copied());
  json.field("bytes_reduced", status.bytes_reduced());
  json.field("in_place", status.in_place()).field("in_place_max", status.in_place_max());
  json.key("gpus").begin_array();
  for (const auto* gpu : items(status.gpus()))
    json.begin_object()
        .field("device", GetString(gpu->device()))
        .field("memory_bytes", gpu->memory_bytes())
        .field("memory_used_bytes", gpu->memory_used_bytes())
        .field("nccl_bytes", gpu->nccl_bytes())
        .end_object();
  json.end_array();
  json.field("users_total", status.users_total()).key("users").begin_array();
  for (const auto* user : items(status.users())) {
    json.begin_object().field("name", GetString(user->name())).field("memory_bytes", user->memory_bytes());
    json.field("peak_bytes", user->peak_bytes()).field("objects", user->objects()).field("fds", user->fds());
    json.field("in_flight", user->in_flight()).field("maps", user->maps()).end_object();
  }
  json.end_array().key("clients").begin_array();
  for (const auto* client : clients) {
    json.begin_object()
        .field("id", client->client())
        .field("name", GetString(client->name()))
        .field("pid", client->pid());
    json.field("uid", client->uid()).field("memory_bytes", client->memory_bytes()).field("objects", client->objects());
    json.field("held", client->held()).field("in_flight", client->in_flight()).field("idle_s", client->idle_s());
    json.field("heap_bytes", client->heap_bytes());
    json.end_object();
  }
  json.end_array().end_object();
  return json.text() + "\n";
}

std::string id_of(const wire::ObjectInfo& object) { return ipc::text_of(ipc::ObjectId{object.object()}); }

std::string holders_of(const wire::ObjectInfo& object) {
  const auto names = texts(object.holders());
  if (!names.empty()) return join(names, ", ");
  return object.pinned_s() > 0 ? fmt::format("a pickle, {} more", format_age(object.pinned_s())) : "nobody";
}

std::string list_text(const wire::Objects& objects) {
  const auto all = items(objects.objects());
  if (all.empty()) return "no objects in the store\n";
  // Most nodes have no other memory, and no need of a column that says so.
  const bool all_on_host = std::ranges::all_of(all, [](const auto* one) { return GetString(one->device()) == "cpu"; });
  std::vector<Table::Column> columns{{"ID"}, {"SIZE", Align::right}, {"PINS", Align::right}, {"DTYPE"}, {"SHAPE"}};
  if (!all_on_host) columns.push_back({"DEVICE"});
  columns.insert(columns.end(), {{"MAKER"}, {"AGE", Align::right}, {"OPS", Align::right}, {"HELD BY"}});
  Table table(std::move(columns));
  std::uint64_t bytes = 0;
  for (const auto* object : all) {
    const std::string shape =
        object->leaves() == 1 ? format_shape(shape_of(*object)) : plural(object->leaves(), "array");
    std::vector<std::string> row{id_of(*object), ipc::bytes_text(object->bytes()),
                                 ipc::bytes_text(object->pins_bytes()), GetString(object->dtype()), shape};
    const char* how = object->lost() ? ", lost" : object->in_place() ? ", in place" : "";
    if (!all_on_host) row.push_back(GetString(object->device()) + how);
    row.insert(row.end(), {GetString(object->maker()), format_age(object->age_s()), std::to_string(object->in_ops()),
                           holders_of(*object)});
    table.add(std::move(row));
    bytes += object->bytes();
  }
  std::string out = fmt::format("{}\n{}, {}\n", table.render(), plural(all.size(), "object"), ipc::bytes_text(bytes));
  if (objects.total() > all.size()) out += fmt::format("{} more: see --limit\n", objects.total() - all.size());
  return out;
}

std::string list_json(const wire::Objects& objects) {
  ipc::JsonWriter json;
  json.begin_object().field("total", objects.total()).key("objects").begin_array();
  for (const auto* object : items(objects.objects())) {
    json.begin_object().field("id", id_of(*object)).field("bytes", object->bytes()).field("leaves", object->leaves());
    json.field("dtype", GetString(object->dtype()))
        .array("shape", shape_of(*object))
        .field("device", GetString(object->device()));
    json.field("maker", GetString(object->maker())).field("maker_pid", object->maker_pid());
    json.array("holders", texts(object->holders())).field("in_ops", object->in_ops());
    json.field("pinned_s", object->pinned_s())
        .field("age_s", object->age_s())
        .field("pins_bytes", object->pins_bytes())
        .field("in_place", object->in_place())
        .field("lost", object->lost())
        .end_object();
  }
  json.end_array().end_object();
  return json.text() + "\n";
}

std::string groups_text(const wire::Groups& groups) {
  const auto all = items(groups.groups());
  if (all.empty()) return "no groups\n";
  std::string out;
  for (const auto* group : all) {
    out += fmt::format("{}: {}, epoch {}, {}, on_loss {}, timeout {}, ops {} done, {} failed, {} in flight\n",
                       GetString(group->name()), GetString(group->state()), group->epoch(),
                       plural(static_cast<std::uint64_t>(group->world_size()), "rank"), GetString(group->on_loss()),
                       format_age(group->timeout_ms() / 1e3), format_count(group->ops_done()),
                       format_count(group->ops_failed()), format_count(group->ops_in_flight()));
    Table seats(
        {{"  RANK", Align::right}, {"STATE"}, {"CONTRIBUTED", Align::right}, {"PID", Align::right}, {"CLIENT"}});
    for (const auto* seat : items(group->seats()))
      seats.add({std::to_string(seat->rank()), GetString(seat->state()), format_count(seat->contributed()),
                 seat->pid() != 0 ? std::to_string(seat->pid()) : "", GetString(seat->client())});
    out += seats.render() + "\n";
  }
  if (groups.total() > all.size()) return out + fmt::format("{} more\n", groups.total() - all.size());
  out.pop_back();
  return out;
}

std::string groups_json(const wire::Groups& groups) {
  ipc::JsonWriter json;
  json.begin_object().field("total", groups.total()).key("groups").begin_array();
  for (const auto* group : items(groups.groups())) {
    json.begin_object().field("name", GetString(group->name())).field("epoch", group->epoch());
    json.field("world_size", group->world_size()).field("on_loss", GetString(group->on_loss()));
    json.field("timeout_ms", group->timeout_ms()).field("state", GetString(group->state()));
    json.field("ops_done", group->ops_done()).field("ops_failed", group->ops_failed());
    json.field("ops_in_flight", group->ops_in_flight()).key("seats").begin_array();
    for (const auto* seat : items(group->seats())) {
      json.begin_object()
          .field("rank", seat->rank())
          .field("client", GetString(seat->client()))
          .field("pid", seat->pid());
      json.field("state", GetString(seat->state())).field("contributed", seat->contributed()).end_object();
    }
    json.end_array().end_object();
  }
  json.end_array().end_object();
  return json.text() + "\n";
}

}  // namespace

ExitStatus status(const StatusOptions& options) {
  auto inquiry = Inquiry::open(options.socket);
  if (!inquiry) return complain("status", inquiry.error());
  const auto found = inquiry->status();
  if (!found) return complain("status", found.error());
  const auto clients = inquiry->clients();
  if (!clients) return complain("status", clients.error());
  const auto listed = others(*clients->frame().body_as_Clients(), inquiry->client());
  const auto& reply = *found->frame().body_as_StatusReply();
  print(options.json ? status_json(reply, listed) : status_text(reply, listed));
  return ExitStatus::ok;
}

ExitStatus list(const ListOptions& options) {
  auto inquiry = Inquiry::open(options.socket);
  if (!inquiry) return complain("ls", inquiry.error());
  const auto found = inquiry->objects(options.limit);
  if (!found) return complain("ls", found.error());
  const auto& objects = *found->frame().body_as_Objects();
  print(options.json ? list_json(objects) : list_text(objects));
  return ExitStatus::ok;
}

ExitStatus groups(const GroupsOptions& options) {
  auto inquiry = Inquiry::open(options.socket);
  if (!inquiry) return complain("groups", inquiry.error());
  const auto found = inquiry->groups();
  if (!found) return complain("groups", found.error());
  const auto& reply = *found->frame().body_as_Groups();
  print(options.json ? groups_json(reply) : groups_text(reply));
  return ExitStatus::ok;
}

}  // namespace muster::cli
