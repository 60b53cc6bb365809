// How the parts of the fake say that a call fails: they throw the code, and what ncclGetLastError says.
#pragma once

#include <string>

#include "nccl_api.hpp"

namespace fake_nccl {

struct Failure {
  ncclResult_t code;
  std::string text;
};

inline void require(bool holds, ncclResult_t otherwise, const std::string& text) {
  if (!holds) throw Failure{otherwise, text};
}

/// "Error handling and communicator abort": an argument that is invalid is ncclInvalidArgument.
inline void require_argument(bool holds, const std::string& text) { require(holds, ncclInvalidArgument, text); }

/// Keeps the text for ncclGetLastError, and prints it if NCCL_DEBUG asks for warnings.
void warn(const std::string& text);
/// Prints if NCCL_DEBUG is INFO or TRACE.
void inform(const std::string& text);
/// Prints NCCL's version once, if NCCL_DEBUG is set to VERSION or more.
void show_version();
const char* last_error();

}  // namespace fake_nccl
