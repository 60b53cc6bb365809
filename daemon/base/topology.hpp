// The cores that the daemon may use, as hwloc and the cgroup know them. They say how many lanes make sense, and where
// they run.
#pragma once

#include <memory>

namespace musterd {

class Topology {
 public:
  /// Of this machine, restricted to what this process may use.
  Topology();

  /// How many cores this process may use at the same time: those it may run on, and at most its cgroup's CPU quota.
  /// Hyperthreads of one core count once, as folding is bound by memory. At least 1.
  [[nodiscard]] unsigned cores() const { return cores_; }
  /// How many NUMA nodes these cores belong to. At least 1.
  [[nodiscard]] unsigned nodes() const { return nodes_; }
  /// Keeps the calling thread on the cores of one NUMA node: that of number `node` modulo nodes(). Does nothing where
  /// there is only one node, so that the kernel may place the thread beside the ranks.
  void stay_on_node(unsigned node) const;

 private:
  struct Loaded;
  std::shared_ptr<const Loaded> loaded_;  ///< null where hwloc could not look
  unsigned cores_ = 1;
  unsigned nodes_ = 1;
};

}  // namespace musterd
