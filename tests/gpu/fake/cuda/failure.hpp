// How the parts of the fake say that a call fails: they throw the code that the manual names.
#pragma once

#include <cuda.h>

namespace fake_gpu {

struct Failure {
  CUresult code;
};

inline void require(bool holds, CUresult otherwise) {
  if (!holds) throw Failure{otherwise};
}

/// "CUDA Driver API, Data types used by CUDA driver": a null or malformed argument is CUDA_ERROR_INVALID_VALUE.
inline void require_value(bool holds) { require(holds, CUDA_ERROR_INVALID_VALUE); }

}  // namespace fake_gpu
