#include "gpu.hpp"

#include <cstring>

#include <fmt/format.h>

#include <muster/ipc/byte_count.hpp>

#include "../text.hpp"
#include "../../core/start_daemon.hpp"

namespace muster::cli {

namespace {

using ipc::ChildEnd;
using ipc::Json;

constexpr const char* driver_name = "GPU driver";
constexpr const char* nccl_name = "NCCL";
/// Turing: older ones are not supported by the toolkits that compile the kernels.
constexpr double capability_min = 7.5;

Check warning(std::string name, const Json& said) {
  return {std::move(name), Health::warn, said["why"].text(), said["hint"].text()};
}

Check driver_check(const Json& document) {
  const Json& driver = document["driver"];
  if (driver["finding"].text() == "absent" && !document["kernel_driver"].truth())
    return {driver_name, Health::ok, "none, so arrays are in host memory: " + driver["why"].text(), {}};
  if (driver["finding"].text() != "found") return warning(driver_name, driver);
  const Json& init = document["init"];
  if (!init["why"].is_null()) return warning(driver_name, init);
  return {driver_name, Health::ok, fmt::format("CUDA {}, {}", driver["version"].text(), driver["path"].text()), {}};
}

Check device_check(const Json& device) {
  const std::string name = fmt::format("GPU {}", device["index"].number());
  if (!device["why"].is_null()) return warning(name, device);
  const std::string& capability = device["compute_capability"].text();
  const std::string& mode = device["compute_mode"].text();
  const std::string found = fmt::format("{}, {}, compute capability {}, {}", device["name"].text(),
                                        ipc::bytes_text(static_cast<std::uint64_t>(device["memory_bytes"].number())),
                                        capability, device["uuid"].text());
  const auto warn = [&](const std::string& what, const std::string& mend) {
    return Check{name, Health::warn, fmt::format("{}: {}", found, what), mend};
  };
  if (mode != "default")
    return warn(fmt::format("compute mode {}, so daemon and ranks can't use it together", mode),
                fmt::format("nvidia-smi -i {} -c DEFAULT, as root", device["uuid"].text()));
  if (std::strtod(capability.c_str(), nullptr) < capability_min)
    return warn(fmt::format("{:.1f} is needed at least", capability_min), "hide it: CUDA_VISIBLE_DEVICES");
  if (!device["virtual_memory"].truth() || !device["posix_descriptors"].truth())
    return warn("its memory can't be shared by descriptors (no virtual memory management, or no POSIX handles)",
                "see whether the driver of a virtual GPU can allow unified memory and VMM");
  return {name, Health::ok, found, {}};
}

/// One GPU needs no NCCL, and a machine without a GPU has no use for it.
Check nccl_check(const Json& document) {
  const Json& nccl = document["nccl"];
  if (nccl["finding"].text() == "found")
    return {nccl_name, Health::ok, fmt::format("{}, {}", nccl["version"].text(), nccl["path"].text()), {}};
  if (document["devices"].array().empty()) return {nccl_name, Health::ok, "not needed: " + nccl["why"].text(), {}};
  return warning(nccl_name, nccl);
}

/// What the child printed last: the probe names each step before it takes it, so this is the one that didn't end.
std::string last_words(const std::string& printed) {
  const std::string text = ipc::last_line(printed);
  constexpr std::string_view step = "musterd --gpu-probe: ";
  if (text.starts_with(step)) return "; its last step: " + text.substr(step.size());
  constexpr std::size_t length_max = 200;
  return text.empty() ? text : "; its last words: " + text.substr(0, length_max);
}

}  // namespace

std::vector<Check> gpu_checks(const Json& document) {
  std::vector<Check> checks{driver_check(document)};
  for (const auto& device : document["devices"].array()) checks.push_back(device_check(device));
  checks.push_back(nccl_check(document));
  return checks;
}

Check probe_failed(const ChildEnd& end, std::chrono::milliseconds time) {
  const std::string words = last_words(end.error);
  const auto failed = [&](const std::string& what, const std::string& mend) {
    return Check{driver_name, Health::warn, fmt::format("musterd --gpu-probe {}{}", what, words), mend};
  };
  const std::string look = "see whether `nvidia-smi` works, and what the kernel's log says: dmesg | grep -i nvrm";
  switch (end.how) {
    case ChildEnd::How::not_started:
      return failed(fmt::format("can't be started: {}", std::strerror(end.number)),
                    "see that MUSTER_DAEMON is a musterd");
    case ChildEnd::How::timed_out:
      return failed(fmt::format("gave no answer within {:g} s", std::chrono::duration<double>(time).count()),
                    look + "; for a slow driver: muster doctor --timeout 120");
    case ChildEnd::How::killed: {
      const char* const signal = ::sigabbrev_np(end.number);
      return failed(
          fmt::format("was ended by signal {}{}", signal ? "SIG" : "", signal ? signal : std::to_string(end.number)),
          look);
    }
    case ChildEnd::How::too_much: return failed("printed more than an answer has", look);
    case ChildEnd::How::exited:
    case ChildEnd::How::finished: break;
  }
  return failed(fmt::format("gave no answer, and ended with status {}", end.number),
                "run it by hand; see that musterd and muster are of the same version");
}

std::vector<Check> check_gpu(const std::vector<std::string>& words, std::chrono::milliseconds time) {
  const auto program = detail::find_daemon({});
  if (!program)
    return {{driver_name, Health::warn, "not looked for: " + program.error().message(), program.error().hint()}};
  ipc::ChildLimits limits;
  limits.time = time;
  std::vector<std::string> arguments{"musterd", "--gpu-probe"};
  arguments.insert(arguments.end(), words.begin(), words.end());
  const ChildEnd end = ipc::run_child({*program, arguments}, limits);
  // What was said counts, however the process ends: some drivers crash or hang in their destructors.
  const auto document = Json::parse(end.out);
  if (!document || (*document)["driver"].is_null()) return {probe_failed(end, time)};
  return gpu_checks(*document);
}

}  // namespace muster::cli
