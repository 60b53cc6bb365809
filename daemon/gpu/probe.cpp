#include "gpu/probe.hpp"

#include <sys/prctl.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include <muster/ipc/fd.hpp>
#include <muster/ipc/json.hpp>
#include <muster/ipc/text_file.hpp>

#include "gpu/cuda.hpp"

namespace musterd::gpu {

namespace {

using cuda::Device;
using cuda::DeviceAttribute;
using cuda::Driver;
using cuda::Status;
using muster::ipc::JsonWriter;

/// Names a step that may hang or crash, for the process that waits for this one.
void note(std::string_view step) {
  const std::string line = fmt::format("musterd --gpu-probe: {}\n", step);
  static_cast<void>(!::write(STDERR_FILENO, line.data(), line.size()));
}

void add_error(JsonWriter& json, const muster::Error& error) {
  json.field("why", error.message()).field("hint", error.hint());
}

void add_search(JsonWriter& json, const Search& search, const std::string& version,
                const std::optional<muster::Error>& error) {
  json.field("finding", name(search.finding)).field("path", search.path).field("version", version);
  if (error) add_error(json, *error);
  json.key("attempts").begin_array();
  for (const auto& [candidate, finding, why] : search.attempts) {
    json.begin_object().field("file", candidate.file).field("source", candidate.source);
    json.field("finding", name(finding)).field("why", why).end_object();
  }
  json.end_array();
}

std::string_view name(cuda::ComputeMode mode) {
  switch (mode) {
    case cuda::ComputeMode::shared: return "default";
    case cuda::ComputeMode::prohibited: return "prohibited";
    case cuda::ComputeMode::exclusive_process: return "exclusive-process";
  }
  return "unknown";
}

/// Asks for one device after the other, without a context. The first call that fails is remembered; what comes after it
/// reads as zero.
class DeviceQuery {
 public:
  DeviceQuery(const Driver& driver, int index) : driver_(driver) { check(driver.device_get(&device_, index)); }

  [[nodiscard]] int attribute(DeviceAttribute which) {
    int value = 0;
    check(driver_.device_get_attribute(&value, which, device_));
    return value;
  }
  [[nodiscard]] std::string name() {
    char text[256] = {};
    check(driver_.device_get_name(text, sizeof text - 1, device_));
    return text;
  }
  [[nodiscard]] std::string uuid() {
    cuda::Uuid uuid{};
    check(driver_.device_get_uuid(&uuid, device_));
    return cuda::text_of(uuid);
  }
  [[nodiscard]] std::string pci() {
    char text[32] = {};
    check(driver_.device_get_pci_bus_id(text, sizeof text, device_));
    return text;
  }
  [[nodiscard]] std::uint64_t memory_bytes() {
    std::size_t bytes = 0;
    check(driver_.device_total_mem(&bytes, device_));
    return bytes;
  }
  /// Of memory that a descriptor shares; 0 if there is none.
  [[nodiscard]] std::uint64_t granularity_bytes() {
    if (attribute(DeviceAttribute::virtual_memory_management_supported) == 0) return 0;
    if (attribute(DeviceAttribute::posix_descriptor_handles_supported) == 0) return 0;
    const auto properties = cuda::shareable(device_);
    std::size_t bytes = 0;
    check(driver_.mem_get_allocation_granularity(&bytes, &properties, cuda::Granularity::minimum));
    return bytes;
  }
  [[nodiscard]] Status status() const { return status_; }

 private:
  void check(Status status) {
    if (status_ == Status::success) status_ = status;
  }
  const Driver& driver_;
  Device device_ = -1;
  Status status_ = Status::success;
};

void add_device(JsonWriter& json, const Driver& driver, int index) {
  DeviceQuery query(driver, index);
  json.begin_object().field("index", index).field("name", query.name()).field("uuid", query.uuid());
  json.field("pci", query.pci()).field("memory_bytes", query.memory_bytes());
  json.field("compute_capability", fmt::format("{}.{}", query.attribute(DeviceAttribute::compute_capability_major),
                                               query.attribute(DeviceAttribute::compute_capability_minor)));
  json.field("compute_mode", name(static_cast<cuda::ComputeMode>(query.attribute(DeviceAttribute::compute_mode))));
  const auto has = [&](DeviceAttribute which) { return query.attribute(which) != 0; };
  json.field("virtual_memory", has(DeviceAttribute::virtual_memory_management_supported));
  json.field("posix_descriptors", has(DeviceAttribute::posix_descriptor_handles_supported));
  json.field("fabric_handles", has(DeviceAttribute::fabric_handles_supported));
  json.field("granularity_bytes", query.granularity_bytes());
  json.field("legacy_ipc", has(DeviceAttribute::ipc_supported));
  if (query.status() != Status::success)
    json.field("why", driver.describe(query.status())).field("hint", "see what `nvidia-smi` says of this GPU");
  json.end_object();
}

void add_init(JsonWriter& json, const Driver& driver, Status status) {
  json.key("init").begin_object().field("status", static_cast<int>(status)).field("name", driver.name_of(status));
  if (status != Status::success) add_error(json, init_error(driver, status));
  json.end_object();
}

void add_devices(JsonWriter& json, const Driver& driver) {
  note("calls cuInit");
  auto status = driver.init(0);
  int count = 0;
  if (status == Status::success) {
    note("asks for the devices");
    status = driver.device_get_count(&count);
  }
  if (status == Status::success && count == 0) status = Status::no_device;
  add_init(json, driver, status);
  json.key("devices").begin_array();
  for (int i = 0; i < count; ++i) add_device(json, driver, i);
  json.end_array();
}

void add_driver(JsonWriter& json) {
  // The kernel's part of the driver: with it and without its library, a container is probably in the way.
  json.field("kernel_driver", muster::ipc::read_text_file("/proc/driver/nvidia/version").has_value());
  note("opens the CUDA driver");
  const auto [search, driver] = open_driver(driver_candidates());
  json.key("driver").begin_object();
  add_search(json, search, driver ? cuda_version_text(driver->version) : "", driver_error(search));
  json.end_object();
  if (driver) add_devices(json, *driver);
}

void add_nccl(JsonWriter& json, const NcclPlaces& places) {
  note("opens NCCL");
  const auto [search, nccl] = open_nccl(nccl_candidates(places));
  json.key("nccl").begin_object();
  add_search(json, search, nccl ? nccl_version_text(nccl->version) : "", nccl_error(search));
  json.end_object();
}

bool write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const auto written = ::write(fd, text.data(), text.size());
    if (written <= 0) return false;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

int print(const std::function<void(JsonWriter&)>& add) {
  // A call of the driver may hang for ever, and the process that waits for this one may be killed meanwhile.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const muster::ipc::Fd out(::dup(STDOUT_FILENO));
  if (!out || ::dup2(STDERR_FILENO, STDOUT_FILENO) < 0) return 1;
  JsonWriter json;
  json.begin_object();
  add(json);
  json.end_object();
  note("is done");
  return write_all(out.get(), json.text() + "\n") ? 0 : 1;
}

}  // namespace

int run_probe(const NcclPlaces& places) {
  return print([&](JsonWriter& json) {
    add_driver(json);
    add_nccl(json, places);
  });
}

int run_driver_probe() { return print(add_driver); }

}  // namespace musterd::gpu
