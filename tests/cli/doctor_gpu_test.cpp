// What `muster doctor` makes of the probe's answers, also of those that no stub of a library can bring about.
#include <catch2/catch.hpp>

#include <cerrno>
#include <csignal>

#include "doctor/gpu.hpp"

namespace muster::cli {
namespace {

using How = ipc::ChildEnd::How;

constexpr const char* good_device =
    R"({"index": 0, "name": "G", "uuid": "GPU-1", "memory_bytes": 1073741824, "compute_capability": "7.5",
        "compute_mode": "default", "virtual_memory": true, "posix_descriptors": true})";

std::vector<Check> checks_of(const std::string& document) {
  const auto parsed = ipc::Json::parse(document);
  REQUIRE(parsed);
  return gpu_checks(*parsed);
}

/// A document with a driver, these devices, and no NCCL.
std::vector<Check> with_devices(const std::string& devices) {
  return checks_of(R"({"driver": {"finding": "found", "version": "13.0", "path": "/libcuda"}, "init": {"status": 0},
                       "devices": [)" +
                   devices + R"(], "nccl": {"finding": "absent", "why": "no NCCL", "hint": "install it"}})");
}

/// The device, with one text of it replaced.
std::string device_with(const std::string& text, const std::string& other) {
  std::string device = good_device;
  return device.replace(device.find(text), text.size(), other);
}

TEST_CASE("a machine without a driver is well, and is told what was looked for") {
  const auto checks = checks_of(R"({"kernel_driver": false, "driver": {"finding": "absent", "why": "not in /lib",
      "hint": "install"}, "nccl": {"finding": "absent", "why": "not in /usr", "hint": "install"}})");
  REQUIRE(checks.size() == 2);
  CHECK(checks[0].name == "GPU driver");
  CHECK(checks[0].found == "none, so arrays are in host memory: not in /lib");
  CHECK(checks[1].name == "NCCL");
  CHECK(checks[1].found == "not needed: not in /usr");
  for (const auto& check : checks) {
    CHECK(check.health == Health::ok);
    CHECK(check.mend.empty());
  }
}

TEST_CASE("a kernel that has the driver, and no library of it, is a container without its GPUs") {
  const auto checks = checks_of(
      R"({"kernel_driver": true, "driver": {"finding": "absent", "why": "not there", "hint": "--gpus all"}})");
  CHECK(checks[0].health == Health::warn);
  CHECK(checks[0].mend == "--gpus all");
}

TEST_CASE("a good device is described, it wants NCCL") {
  const auto checks = with_devices(good_device);
  REQUIRE(checks.size() == 3);
  CHECK(checks[0].found == "CUDA 13.0, /libcuda");
  CHECK(checks[1].name == "GPU 0");
  CHECK(checks[1].health == Health::ok);
  CHECK(checks[1].found == "G, 1 GiB, compute capability 7.5, GPU-1");
  CHECK(checks[2].health == Health::warn);
  CHECK(checks[2].found == "no NCCL");
  CHECK(checks[2].mend == "install it");
}

TEST_CASE("a device that can't be used by several processes, or not at all, is warned of") {
  const auto warned = [](const std::string& text, const std::string& other) {
    const auto check = with_devices(device_with(text, other)).at(1);
    CHECK(check.health == Health::warn);
    CHECK_FALSE(check.mend.empty());
    return check.found + " -> " + check.mend;
  };
  CHECK(warned("\"default\"", "\"exclusive-process\"").find("nvidia-smi -i GPU-1 -c DEFAULT") != std::string::npos);
  CHECK(warned("\"default\"", "\"prohibited\"").find("compute mode prohibited") != std::string::npos);
  CHECK(warned("\"7.5\"", "\"7.0\"").find("7.5 is needed at least") != std::string::npos);
  CHECK(warned("\"virtual_memory\": true", "\"virtual_memory\": false").find("descriptors") != std::string::npos);
  CHECK(warned("\"posix_descriptors\": true", "\"posix_descriptors\": false").find("descriptors") != std::string::npos);
  CHECK(warned("\"name\"", "\"why\": \"it is lost\", \"hint\": \"look\", \"name\"") == "it is lost -> look");
}

TEST_CASE("a newer device than all that we know is well") {
  CHECK(with_devices(device_with("\"7.5\"", "\"12.1\"")).at(1).health == Health::ok);
}

TEST_CASE("a probe that gives no answer is reported with its last step") {
  const auto found = [](How how, int number, const std::string& error) {
    const auto check = probe_failed({how, number, {}, error}, std::chrono::milliseconds(1500));
    CHECK(check.name == "GPU driver");
    CHECK(check.health == Health::warn);
    CHECK_FALSE(check.mend.empty());
    return check.found;
  };
  CHECK(found(How::timed_out, 0, "x\nmusterd --gpu-probe: calls cuInit\n") ==
        "musterd --gpu-probe gave no answer within 1.5 s; its last step: calls cuInit");
  CHECK(found(How::killed, SIGSEGV, "") == "musterd --gpu-probe was ended by signal SIGSEGV");
  CHECK(found(How::killed, SIGRTMIN + 1, "").find("signal " + std::to_string(SIGRTMIN + 1)) != std::string::npos);
  CHECK(found(How::exited, 2, "there is no option --gpu-probe\n") ==
        "musterd --gpu-probe gave no answer, and ended with status 2; its last words: there is no option --gpu-probe");
  CHECK(found(How::not_started, EACCES, "") == "musterd --gpu-probe can't be started: Permission denied");
  CHECK(found(How::too_much, 0, std::string(1000, 'x')).size() < 300);
}

}  // namespace
}  // namespace muster::cli
