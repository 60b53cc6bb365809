// The shell around the node: sockets, rings, timers and signals come in, effects go out. One thread runs it all. It
// polls the rings of clients that were active a moment ago, and sleeps in the kernel when nothing happens.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <muster/ipc/spawn.hpp>
#include <muster/result.hpp>

#include "gpu/process/find_gpus.hpp"
#include "session/node.hpp"

namespace musterd {

struct ServerSettings {
  NodeSettings node;
  std::vector<gpu::GpuFacts> gpus;
  muster::ipc::Program gpu_worker;  ///< starts a worker, which is told its GPU by further arguments
  std::string socket;
  unsigned socket_mode = 0600;
  std::size_t clients_max = 4096;
  Duration hello_timeout = std::chrono::seconds(5);
  Duration stop_timeout = std::chrono::seconds(2);
  std::function<void(unsigned lane)> place_lane = [](unsigned) {};  ///< called once on each lane's thread
  std::function<void()> ready;                                      ///< called once when clients can connect
};

class Server {
 public:
  /// Takes the socket. Null if another daemon has it.
  [[nodiscard]] static muster::Result<std::unique_ptr<Server>> create(ServerSettings settings);
  virtual ~Server() = default;

  /// Serves until SIGTERM, SIGINT, a client's Stop, or the idle time. Returns why it ended.
  virtual std::string run() = 0;
};

}  // namespace musterd
