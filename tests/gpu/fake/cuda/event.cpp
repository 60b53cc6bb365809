#include "event.hpp"

#include <sys/mman.h>

#include "driver.hpp"
#include "folder.hpp"

namespace fake_gpu {

std::filesystem::path event_path(const ProcessId& process, std::uint64_t number) {
  return folder() / "events" /
         (std::to_string(process.pid) + "-" + std::to_string(process.start) + "." + std::to_string(number));
}

std::shared_ptr<EventState> shared_event_state(const std::filesystem::path& path, bool make) {
  if (!make && !std::filesystem::exists(path)) return nullptr;
  auto* state = static_cast<EventState*>(map_shared(path, sizeof(EventState)));
  return {state, [](EventState* mapped) { ::munmap(mapped, sizeof(EventState)); }};
}

void destroy_event(Event& event) {
  count(driver().physical(event.context->ordinal()), event.imported ? Item::ipc_events : Item::events, -1);
  if (event.imported || event.path.empty()) return;
  event.state->destroyed = 1;
  std::filesystem::remove(event.path);
}

}  // namespace fake_gpu
