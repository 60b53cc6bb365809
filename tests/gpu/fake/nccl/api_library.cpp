// NCCL User Guide, "ncclGetVersion", "ncclGetErrorString", "ncclGetLastError".
#include <array>

#include "call.hpp"
#include "version.hpp"

using namespace fake_nccl;

extern "C" {

ncclResult_t ncclGetVersion(int* version) {
  return call([&] {
    require_argument(version != nullptr, "version argument is NULL");
    *version = library_version();
    return ncclSuccess;
  });
}

const char* ncclGetErrorString(ncclResult_t result) {
  constexpr std::array texts{"no error",
                             "unhandled cuda error (run with NCCL_DEBUG=INFO for details)",
                             "unhandled system error (run with NCCL_DEBUG=INFO for details)",
                             "internal error",
                             "invalid argument (run with NCCL_DEBUG=WARN for details)",
                             "invalid usage (run with NCCL_DEBUG=WARN for details)",
                             "remote process exited or there was a network error",
                             "NCCL operation in progress",
                             "NCCL operation timed out"};
  const auto code = static_cast<std::size_t>(result);
  return code < texts.size() ? texts[code] : "unknown result code";
}

// The communicator isn't used.
const char* ncclGetLastError(ncclComm_t /*comm*/) { return last_error(); }

}  // extern "C"
