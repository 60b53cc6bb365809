#include "gpu/process/find_gpus.hpp"

#include <charconv>
#include <cstdlib>
#include <cstring>

#include <fmt/format.h>

#include <muster/ipc/json_reader.hpp>
#include <muster/ipc/run_child.hpp>

namespace musterd::gpu {

using muster::Code;
using muster::Error;
namespace ipc = muster::ipc;
using ipc::Json;

namespace {

/// Turing: toolkits that compile the kernels support nothing older.
constexpr double capability_min = 7.5;

std::string how_it_failed(const ipc::ChildEnd& end) {
  using How = ipc::ChildEnd::How;
  switch (end.how) {
    case How::not_started: return fmt::format("it can't be started: {}", std::strerror(end.number));
    case How::timed_out: return "it did not say in time what there is";
    case How::too_much: return "it printed too much";
    case How::killed: return fmt::format("it was ended by signal {}", end.number);
    case How::exited:
    case How::finished: break;
  }
  return fmt::format("it said nothing, and ended with status {}", end.number);
}

GpuFacts facts_of(const Json& device) {
  return {muster::Device::cuda(static_cast<std::uint8_t>(device["index"].number())), device["name"].text(),
          device["uuid"].text(), static_cast<std::uint64_t>(device["memory_bytes"].number()),
          static_cast<std::uint64_t>(device["granularity_bytes"].number())};
}

Error why_of(const std::string& what, const Json& said) {
  return {Code::failed, fmt::format("{}: {}", what, said["why"].text()), said["hint"].text()};
}

void read_device(const Json& device, FoundGpus& found) {
  const auto index = device["index"].number();
  const std::string name = fmt::format("GPU {}", index);
  const auto leave_out = [&](const std::string& why) {
    found.unused.emplace_back(Code::failed, fmt::format("{}: {}", name, why), "see `muster doctor`");
  };
  if (!device["why"].is_null()) return found.unused.push_back(why_of(name, device));
  if (!(index >= 0) || index >= static_cast<double>(muster::gpus_max))
    return leave_out(fmt::format("at most {} GPUs of a machine are used", muster::gpus_max));
  const auto facts = facts_of(device);
  const std::string& mode = device["compute_mode"].text();
  if (mode != "default")
    return leave_out(fmt::format("its compute mode is {}, so its worker and clients can't share it", mode));
  const std::string& capability = device["compute_capability"].text();
  if (std::strtod(capability.c_str(), nullptr) < capability_min)
    return leave_out(fmt::format("its compute capability is {}, and {} is needed", capability, capability_min));
  if (!device["virtual_memory"].truth() || !device["posix_descriptors"].truth() || facts.granularity_bytes == 0)
    return leave_out("its memory can't be shared by descriptors");
  found.gpus.push_back(facts);
}

}  // namespace

FoundGpus read_probe(const std::string& text) {
  FoundGpus found;
  const auto document = Json::parse(text);
  if (!document) {
    found.unused.emplace_back(Code::failed, "GPUs: the probe's output makes no sense: " + document.error().message(),
                              "see `muster doctor`");
    return found;
  }
  const Json& driver = (*document)["driver"];
  if (driver["finding"].text() != "found") {
    const bool expected = (*document)["kernel_driver"].truth() || driver["finding"].text() != "absent";
    if (expected) found.unused.push_back(why_of("GPUs", driver));
    return found;
  }
  if (!(*document)["init"]["why"].is_null()) found.unused.push_back(why_of("GPUs", (*document)["init"]));
  for (const auto& device : (*document)["devices"].array()) read_device(device, found);
  return found;
}

FoundGpus find_gpus(const std::string& program, const std::vector<std::string>& arguments,
                    std::chrono::milliseconds deadline) {
  ipc::ChildLimits limits;
  limits.time = deadline;
  const auto end = ipc::run_child({program, arguments}, limits);
  // What was said counts, however the process ends: some drivers crash or hang in their destructors.
  const bool has_answer = end.how == ipc::ChildEnd::How::exited || end.how == ipc::ChildEnd::How::killed ||
                          end.how == ipc::ChildEnd::How::finished;
  if (has_answer && !end.out.empty()) return read_probe(end.out);
  FoundGpus none;
  const std::string last = ipc::last_line(end.error);
  none.unused.emplace_back(Code::failed,
                           fmt::format("GPUs: the probe of the driver failed: {}{}{}", how_it_failed(end),
                                       last.empty() ? "" : "; its last words: ", last),
                           "see `muster doctor`");
  return none;
}

ipc::GpuUuid uuid_of(std::string_view text) {
  constexpr std::string_view prefix = "GPU-";
  ipc::GpuUuid uuid{};
  if (!text.starts_with(prefix)) return uuid;
  std::string digits(text.substr(prefix.size()));
  std::erase(digits, '-');
  if (digits.size() != 2 * uuid.size()) return uuid;
  for (std::size_t i = 0; i < uuid.size(); ++i) {
    const char* const pair = digits.data() + 2 * i;
    if (std::from_chars(pair, pair + 2, uuid[i], 16).ptr != pair + 2) return {};
  }
  return uuid;
}

}  // namespace musterd::gpu
