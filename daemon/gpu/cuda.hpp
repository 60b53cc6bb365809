// The names of the CUDA driver's table here. Clients have the same table, so it lies in include/muster/gpu.
#pragma once

#include <muster/gpu/driver.hpp>

namespace musterd::gpu {

namespace cuda = muster::gpu::cuda;
using muster::gpu::Attempt;
using muster::gpu::Candidate;
using muster::gpu::cuda_version_text;
using muster::gpu::driver_candidates;
using muster::gpu::driver_error;
using muster::gpu::driver_version_min;
using muster::gpu::Examine;
using muster::gpu::Finding;
using muster::gpu::init_error;
using muster::gpu::Library;
using muster::gpu::loader_folders;
using muster::gpu::name;
using muster::gpu::open_driver;
using muster::gpu::OpenedDriver;
using muster::gpu::Refusal;
using muster::gpu::Search;
using muster::gpu::search_library;

}  // namespace musterd::gpu
