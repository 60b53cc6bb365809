#include "base/topology.hpp"

#include <hwloc.h>

#include <algorithm>
#include <cmath>
#include <thread>

#include <muster/ipc/cgroup.hpp>

#include "base/log.hpp"

namespace musterd {

struct Topology::Loaded {
  hwloc_topology_t topology = nullptr;
  Loaded() = default;
  Loaded(const Loaded&) = delete;
  Loaded& operator=(const Loaded&) = delete;
  ~Loaded() {
    if (topology) hwloc_topology_destroy(topology);
  }
};

namespace {

/// hwloc leaves disallowed cores out, but not those that the process was bound away from (taskset, a container). It is
/// the calling thread's binding that counts, as every thread that it starts inherits it. A sanitizer's own thread may
/// have another.
void restrict_to_binding(hwloc_topology_t topology) {
  const hwloc_bitmap_t bound = hwloc_bitmap_alloc();
  if (hwloc_get_cpubind(topology, bound, HWLOC_CPUBIND_THREAD) == 0 && !hwloc_bitmap_iszero(bound))
    hwloc_topology_restrict(topology, bound, HWLOC_RESTRICT_FLAG_REMOVE_CPULESS);
  hwloc_bitmap_free(bound);
}

unsigned count(hwloc_topology_t topology, hwloc_obj_type_t type) {
  return static_cast<unsigned>(std::max(0, hwloc_get_nbobjs_by_type(topology, type)));
}

}  // namespace

Topology::Topology() {
  auto loaded = std::make_shared<Loaded>();
  if (hwloc_topology_init(&loaded->topology) == 0 && hwloc_topology_load(loaded->topology) == 0) {
    restrict_to_binding(loaded->topology);
    cores_ = count(loaded->topology, HWLOC_OBJ_CORE);
    if (cores_ == 0) cores_ = count(loaded->topology, HWLOC_OBJ_PU);  // some virtual machines don't say
    nodes_ = std::max(1U, count(loaded->topology, HWLOC_OBJ_NUMANODE));
    loaded_ = std::move(loaded);
  } else {
    cores_ = std::thread::hardware_concurrency();
  }
  if (const auto quota = muster::ipc::cgroup_cores())
    cores_ = std::min(cores_, static_cast<unsigned>(std::ceil(*quota)));
  cores_ = std::max(1U, cores_);
}

void Topology::stay_on_node(unsigned node) const {
  if (!loaded_ || nodes_ < 2) return;
  const hwloc_obj_t found = hwloc_get_obj_by_type(loaded_->topology, HWLOC_OBJ_NUMANODE, node % nodes_);
  if (!found || hwloc_set_cpubind(loaded_->topology, found->cpuset, HWLOC_CPUBIND_THREAD) != 0)
    log_warning("a lane can't be kept on NUMA node {}", node % nodes_);
}

}  // namespace musterd
