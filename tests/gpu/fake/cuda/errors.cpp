#include "errors.hpp"

#include <array>

namespace fake_gpu {
namespace {

struct Error {
  CUresult code;
  const char* name;
};

#define CODE(name) \
  Error { name, #name }
constexpr std::array errors{CODE(CUDA_SUCCESS),
                            CODE(CUDA_ERROR_INVALID_VALUE),
                            CODE(CUDA_ERROR_OUT_OF_MEMORY),
                            CODE(CUDA_ERROR_NOT_INITIALIZED),
                            CODE(CUDA_ERROR_DEINITIALIZED),
                            CODE(CUDA_ERROR_PROFILER_DISABLED),
                            CODE(CUDA_ERROR_PROFILER_NOT_INITIALIZED),
                            CODE(CUDA_ERROR_PROFILER_ALREADY_STARTED),
                            CODE(CUDA_ERROR_PROFILER_ALREADY_STOPPED),
                            CODE(CUDA_ERROR_STUB_LIBRARY),
                            CODE(CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER),
                            CODE(CUDA_ERROR_DEVICE_UNAVAILABLE),
                            CODE(CUDA_ERROR_NO_DEVICE),
                            CODE(CUDA_ERROR_INVALID_DEVICE),
                            CODE(CUDA_ERROR_DEVICE_NOT_LICENSED),
                            CODE(CUDA_ERROR_INVALID_IMAGE),
                            CODE(CUDA_ERROR_INVALID_CONTEXT),
                            CODE(CUDA_ERROR_CONTEXT_ALREADY_CURRENT),
                            CODE(CUDA_ERROR_MAP_FAILED),
                            CODE(CUDA_ERROR_UNMAP_FAILED),
                            CODE(CUDA_ERROR_ARRAY_IS_MAPPED),
                            CODE(CUDA_ERROR_ALREADY_MAPPED),
                            CODE(CUDA_ERROR_NO_BINARY_FOR_GPU),
                            CODE(CUDA_ERROR_ALREADY_ACQUIRED),
                            CODE(CUDA_ERROR_NOT_MAPPED),
                            CODE(CUDA_ERROR_NOT_MAPPED_AS_ARRAY),
                            CODE(CUDA_ERROR_NOT_MAPPED_AS_POINTER),
                            CODE(CUDA_ERROR_ECC_UNCORRECTABLE),
                            CODE(CUDA_ERROR_UNSUPPORTED_LIMIT),
                            CODE(CUDA_ERROR_CONTEXT_ALREADY_IN_USE),
                            CODE(CUDA_ERROR_PEER_ACCESS_UNSUPPORTED),
                            CODE(CUDA_ERROR_INVALID_PTX),
                            CODE(CUDA_ERROR_INVALID_GRAPHICS_CONTEXT),
                            CODE(CUDA_ERROR_NVLINK_UNCORRECTABLE),
                            CODE(CUDA_ERROR_JIT_COMPILER_NOT_FOUND),
                            CODE(CUDA_ERROR_UNSUPPORTED_PTX_VERSION),
                            CODE(CUDA_ERROR_JIT_COMPILATION_DISABLED),
                            CODE(CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY),
                            CODE(CUDA_ERROR_UNSUPPORTED_DEVSIDE_SYNC),
                            CODE(CUDA_ERROR_CONTAINED),
                            CODE(CUDA_ERROR_INVALID_SOURCE),
                            CODE(CUDA_ERROR_FILE_NOT_FOUND),
                            CODE(CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND),
                            CODE(CUDA_ERROR_SHARED_OBJECT_INIT_FAILED),
                            CODE(CUDA_ERROR_OPERATING_SYSTEM),
                            CODE(CUDA_ERROR_INVALID_HANDLE),
                            CODE(CUDA_ERROR_ILLEGAL_STATE),
                            CODE(CUDA_ERROR_LOSSY_QUERY),
                            CODE(CUDA_ERROR_NOT_FOUND),
                            CODE(CUDA_ERROR_NOT_READY),
                            CODE(CUDA_ERROR_ILLEGAL_ADDRESS),
                            CODE(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES),
                            CODE(CUDA_ERROR_LAUNCH_TIMEOUT),
                            CODE(CUDA_ERROR_LAUNCH_INCOMPATIBLE_TEXTURING),
                            CODE(CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED),
                            CODE(CUDA_ERROR_PEER_ACCESS_NOT_ENABLED),
                            CODE(CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE),
                            CODE(CUDA_ERROR_CONTEXT_IS_DESTROYED),
                            CODE(CUDA_ERROR_ASSERT),
                            CODE(CUDA_ERROR_TOO_MANY_PEERS),
                            CODE(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED),
                            CODE(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED),
                            CODE(CUDA_ERROR_HARDWARE_STACK_ERROR),
                            CODE(CUDA_ERROR_ILLEGAL_INSTRUCTION),
                            CODE(CUDA_ERROR_MISALIGNED_ADDRESS),
                            CODE(CUDA_ERROR_INVALID_ADDRESS_SPACE),
                            CODE(CUDA_ERROR_INVALID_PC),
                            CODE(CUDA_ERROR_LAUNCH_FAILED),
                            CODE(CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE),
                            CODE(CUDA_ERROR_TENSOR_MEMORY_LEAK),
                            CODE(CUDA_ERROR_NOT_PERMITTED),
                            CODE(CUDA_ERROR_NOT_SUPPORTED),
                            CODE(CUDA_ERROR_SYSTEM_NOT_READY),
                            CODE(CUDA_ERROR_SYSTEM_DRIVER_MISMATCH),
                            CODE(CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE),
                            CODE(CUDA_ERROR_MPS_CONNECTION_FAILED),
                            CODE(CUDA_ERROR_MPS_RPC_FAILURE),
                            CODE(CUDA_ERROR_MPS_SERVER_NOT_READY),
                            CODE(CUDA_ERROR_MPS_MAX_CLIENTS_REACHED),
                            CODE(CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED),
                            CODE(CUDA_ERROR_MPS_CLIENT_TERMINATED),
                            CODE(CUDA_ERROR_CDP_NOT_SUPPORTED),
                            CODE(CUDA_ERROR_CDP_VERSION_MISMATCH),
                            CODE(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED),
                            CODE(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED),
                            CODE(CUDA_ERROR_STREAM_CAPTURE_MERGE),
                            CODE(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED),
                            CODE(CUDA_ERROR_STREAM_CAPTURE_UNJOINED),
                            CODE(CUDA_ERROR_STREAM_CAPTURE_ISOLATION),
                            CODE(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT),
                            CODE(CUDA_ERROR_CAPTURED_EVENT),
                            CODE(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD),
                            CODE(CUDA_ERROR_TIMEOUT),
                            CODE(CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE),
                            CODE(CUDA_ERROR_EXTERNAL_DEVICE),
                            CODE(CUDA_ERROR_INVALID_CLUSTER_SIZE),
                            CODE(CUDA_ERROR_FUNCTION_NOT_LOADED),
                            CODE(CUDA_ERROR_INVALID_RESOURCE_TYPE),
                            CODE(CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION),
                            CODE(CUDA_ERROR_KEY_ROTATION),
                            CODE(CUDA_ERROR_UNKNOWN)};
#undef CODE

}  // namespace

const char* name_of(CUresult code) {
  for (const auto& error : errors)
    if (error.code == code) return error.name;
  return nullptr;
}

// The driver's own texts differ. No program may depend on them.
const char* text_of(CUresult code) { return name_of(code); }

std::optional<CUresult> code_by_name(const std::string& name) {
  for (const auto& error : errors)
    if (name == error.name) return error.code;
  return std::nullopt;
}

}  // namespace fake_gpu
