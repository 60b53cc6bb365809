// Which version of NCCL this library is. Each variant of it is linked with one; its exports are those of the version.
#pragma once

namespace fake_nccl {

/// 22809 is NCCL 2.28.9.
int library_version();

}  // namespace fake_nccl
