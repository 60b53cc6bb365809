// What it takes to map memory whose descriptor came from another process, as clients and new workers do.
#include <fmt/format.h>

#include <muster/ipc/fd.hpp>

#include "parts.hpp"

namespace bench {

void measure_imports(const Device& device, const Effort& effort, Report& report) {
  for (const auto bytes : effort.sizes) {
    if (bytes < device.granularity() || bytes > device.free_bytes() / 2) continue;
    const auto memory = device.memory(bytes);
    std::vector<double> mapped;
    std::vector<double> unmapped;
    for (unsigned round = 0; round < effort.rounds; ++round) {
      int number = -1;
      device.must("cuMemExportToShareableHandle", memory->share(number));
      const muster::ipc::Fd fd(number);
      auto other = std::make_unique<musterd::gpu::DeviceMapping>(device.driver(), memory->bytes());
      const auto begin = Clock::now();
      device.must("cuMemImportFromShareableHandle", other->import(fd.get()));
      device.must("to map memory", other->map(device.number()));
      mapped.push_back(us_since(begin));
      const auto end = Clock::now();
      other = nullptr;
      unmapped.push_back(us_since(end));
    }
    report.add(summarized({.what = "import and map", .bytes = bytes}, mapped));
    report.add(summarized({.what = "unmap", .bytes = bytes}, unmapped));
  }
}

}  // namespace bench
