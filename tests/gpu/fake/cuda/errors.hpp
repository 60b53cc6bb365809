// Names and texts of error codes.
#pragma once

#include <optional>
#include <string>

#include <cuda.h>

namespace fake_gpu {

/// Null for a code that cuda.h doesn't have.
const char* name_of(CUresult code);
const char* text_of(CUresult code);
std::optional<CUresult> code_by_name(const std::string& name);

}  // namespace fake_gpu
