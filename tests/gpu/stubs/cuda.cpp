// A driver's library that answers what `musterd --gpu-probe` asks, as the variables STUB_CUDA_* say:
// VERSION (13000), INIT (0, what cuInit returns; "hang", "crash", "print" do that), DEVICES (1), COMPUTE_MODE (0),
// CAPABILITY (90), LACKS (a call that cuGetProcAddress does not find), WITHOUT (an attribute that no device has).
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include <muster/gpu/driver_calls.hpp>

using namespace muster::gpu::cuda;

namespace {

int number_of(const char* variable, int usual) {
  const char* const value = std::getenv(variable);
  return value ? std::atoi(value) : usual;
}

bool is(const char* variable, std::string_view wanted) {
  const char* const value = std::getenv(variable);
  return value && value == wanted;
}

}  // namespace

extern "C" {

Status cuInit(unsigned /*flags*/) {
  if (is("STUB_CUDA_INIT", "hang"))
    while (true) ::pause();
  if (is("STUB_CUDA_INIT", "crash")) std::abort();
  if (is("STUB_CUDA_INIT", "print")) {
    std::puts("{\"a driver\": \"prints\"}");
    std::fflush(stdout);
  }
  if (is("STUB_CUDA_INIT", "flood"))
    while (true) std::puts("a driver that prints without an end");
  return static_cast<Status>(number_of("STUB_CUDA_INIT", 0));
}

Status cuDriverGetVersion(int* version) {
  *version = number_of("STUB_CUDA_VERSION", 13000);
  return static_cast<Status>(number_of("STUB_CUDA_VERSION_STATUS", 0));
}

Status cuGetErrorName(Status status, const char** name) {
  *name = status == Status::no_device                ? "CUDA_ERROR_NO_DEVICE"
          : status == Status::system_driver_mismatch ? "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"
                                                     : nullptr;
  return *name ? Status::success : Status::invalid_value;
}

Status cuGetErrorString(Status status, const char** text) {
  *text = status == Status::no_device ? "no CUDA-capable device is detected" : nullptr;
  return *text ? Status::success : Status::invalid_value;
}

Status cuDeviceGetCount(int* count) {
  *count = number_of("STUB_CUDA_DEVICES", 1);
  return Status::success;
}

Status cuDeviceGet(Device* device, int ordinal) {
  *device = ordinal;
  return Status::success;
}

Status cuDeviceGetName(char* name, int bytes, Device /*device*/) {
  std::snprintf(name, static_cast<std::size_t>(bytes), "Stub GPU");
  return Status::success;
}

Status cuDeviceGetUuid_v2(Uuid* uuid, Device device) {
  for (std::size_t i = 0; i < uuid->bytes.size(); ++i) uuid->bytes[i] = static_cast<char>(0xa0 + i);
  uuid->bytes[0] = static_cast<char>(device);
  return Status::success;
}

Status cuDeviceTotalMem_v2(std::size_t* bytes, Device /*device*/) {
  *bytes = std::size_t{80} << 30;
  return Status::success;
}

Status cuDeviceGetAttribute(int* value, DeviceAttribute attribute, Device /*device*/) {
  const int capability = number_of("STUB_CUDA_CAPABILITY", 90);
  switch (attribute) {
    case DeviceAttribute::compute_capability_major: *value = capability / 10; break;
    case DeviceAttribute::compute_capability_minor: *value = capability % 10; break;
    case DeviceAttribute::compute_mode: *value = number_of("STUB_CUDA_COMPUTE_MODE", 0); break;
    default: *value = static_cast<int>(attribute) != number_of("STUB_CUDA_WITHOUT", -1);
  }
  return Status::success;
}

Status cuDeviceGetPCIBusId(char* id, int bytes, Device device) {
  std::snprintf(id, static_cast<std::size_t>(bytes), "0000:%02x:00.0", device + 1);
  return is("STUB_CUDA_LOST", "1") ? Status::no_device : Status::success;
}

Status cuMemGetAllocationGranularity(std::size_t* bytes, const AllocationProperties* properties, Granularity which) {
  *bytes = std::size_t{2} << 20;
  const bool asked = properties->handle_types == HandleType::posix_descriptor && which == Granularity::minimum;
  return asked ? Status::success : Status::invalid_value;
}

// The others' addresses are all that is wanted of them.
#define MUSTER_DECLARE(member, name, symbol, since, ...) extern __typeof__(__VA_ARGS__) symbol;
MUSTER_DRIVER_CALLS(MUSTER_DECLARE)

#ifndef STUB_WITHOUT_GET_PROC_ADDRESS
Status cuGetProcAddress_v2(const char* name, void** function, int version, std::uint64_t /*flags*/,
                           SymbolQuery* query) {
  *query = SymbolQuery::not_found;
  *function = nullptr;
  if (is("STUB_CUDA_LACKS", name)) return Status::not_found;
    // Each call is there with its newest signature only, so a question for an older one finds nothing.
#define MUSTER_ANSWER(member, call, symbol, since, ...)                                  \
  if (std::strcmp(name, #call) == 0) {                                                   \
    *query = version < since ? SymbolQuery::version_not_sufficient : SymbolQuery::found; \
    if (version >= since) *function = reinterpret_cast<void*>(&symbol);                  \
  }
  MUSTER_DRIVER_CALLS(MUSTER_ANSWER)
  return *function ? Status::success : Status::not_found;
}
#endif

}  // extern "C"
