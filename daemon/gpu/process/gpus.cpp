#include "gpu/process/gpus.hpp"

#include <algorithm>
#include <utility>

#include "base/log.hpp"

namespace musterd::gpu {

namespace {

Program worker_program(const GpuFacts& facts, Program program) {
  for (const auto& argument :
       {std::string("--gpu-worker"), std::to_string(facts.device.index), std::string("--gpu-uuid"), facts.uuid})
    program.arguments.push_back(argument);
  return program;
}

GpuSettings settings_of(const GpuFacts& facts) {
  GpuSettings settings;
  settings.device = facts.device;
  settings.limits = {facts.granularity_bytes, facts.memory_bytes};
  return settings;
}

}  // namespace

Gpus::One::One(boost::asio::io_context& loop, const GpuFacts& facts, const Program& program,
               const DeviceMemory::Post& post)
    : name(muster::name(facts.device)),
      worker(
          loop, worker_program(facts, program),
          {.received = [this](std::span<const std::byte> frame,
                              std::vector<muster::ipc::Fd> fds) { gpu.received(frame, std::move(fds), Clock::now()); },
           .ended =
               [this](const std::string& how) {
                 log_warning("the worker of {} ended: {}", name, how);
                 gpu.worker_ended(how, Clock::now());
               }}),
      gpu(settings_of(facts), worker, post) {}

Gpus::Gpus(boost::asio::io_context& loop, std::span<const GpuFacts> found, const Program& program,
           const DeviceMemory::Post& post)
    : gpus_([&] {
        std::vector<std::unique_ptr<One>> made;
        for (const auto& facts : found) made.push_back(std::make_unique<One>(loop, facts, program, post));
        return made;
      }()),
      over_several_({}, all()) {}

GpuSet Gpus::all() const {
  GpuSet members;
  for (const auto& one : gpus_) members.push_back(&one->gpu);
  return members;
}

/// All workers are ended before any of them is waited for: what they have of the GPUs is most often free then. One that
/// its driver keeps is left to the system.
Gpus::~Gpus() {
  constexpr auto patience = std::chrono::seconds(1);
  for (const auto& one : gpus_) one->worker.kill();
  const auto until = Clock::now() + patience;
  for (const auto& one : gpus_) one->worker.wait(until);
}

Backings Gpus::with(Backings backings) {
  for (const auto& one : gpus_) backings.add(one->gpu.device(), one->gpu);
  if (!gpus_.empty()) backings.add(muster::Device::pinned(), *backings.find(muster::Device::cpu())->backing);
  return backings;
}

Lane* Gpus::lane(std::span<const muster::Device> devices) {
  if (devices.size() > 1) return over_several_.has(devices) ? &over_several_ : nullptr;
  const auto found = std::ranges::find(gpus_, devices.front(), [](const auto& one) { return one->gpu.device(); });
  return found == gpus_.end() ? nullptr : &(*found)->gpu;
}

void Gpus::tick(TimePoint now) {
  for (const auto& one : gpus_) {
    one->worker.tell_end();
    one->gpu.tick(now);
  }
  over_several_.tick(now);
}

std::optional<TimePoint> Gpus::next_deadline() const {
  std::optional<TimePoint> earliest = over_several_.next_deadline();
  for (const auto& one : gpus_)
    for (const auto& next : {one->gpu.next_deadline(), one->worker.next_attempt()})
      if (next && (!earliest || *next < *earliest)) earliest = next;
  return earliest;
}

}  // namespace musterd::gpu
