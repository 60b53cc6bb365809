// The frame of every call.
#pragma once

#include "group.hpp"

namespace fake_nccl {

/// Runs the body, which returns a code or throws a Failure.
template <class Body>
ncclResult_t call(const Body& body) noexcept {
  ncclResult_t result = ncclInternalError;
  try {
    result = body();
  } catch (const Failure& failure) {
    warn(failure.text);
    result = failure.code;
  } catch (const std::bad_alloc&) {
    result = ncclSystemError;
  } catch (const std::exception& error) {
    warn(error.what());
  }
  if (result != ncclSuccess && result != ncclInProgress) fail_group(result);
  return result;
}

/// The device of the communicator, or that of this thread, or -1: what an injection may name.
inline int device_of_thread() {
  int device = -1;
  return cuCtxGetDevice(&device) == CUDA_SUCCESS ? device : -1;
}

}  // namespace fake_nccl
