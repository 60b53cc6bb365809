#include "session/channel.hpp"

#include <fcntl.h>

#include <cstring>
#include <new>
#include <string>
#include <utility>

#include <muster/ipc/byte_count.hpp>

namespace musterd {

namespace ipc = muster::ipc;
using muster::Result;

Result<std::unique_ptr<Channel>> Channel::create() {
  auto memory = ipc::create_memfd("muster-channel", ipc::channel_bytes);
  if (!memory) return memory.error();
  auto mapping = ipc::Mapping::map(*memory, ipc::channel_bytes, ipc::Access::read_write);
  if (!mapping) return mapping.error();
  // The client must not shrink the memory while the daemon has it mapped, nor the other way round.
  if (auto sealed = ipc::add_seals(*memory, F_SEAL_SHRINK | F_SEAL_GROW); !sealed) return sealed.error();
  auto doorbell = ipc::create_eventfd();
  if (!doorbell) return doorbell.error();
  auto bell = ipc::create_bell();
  if (!bell) return bell.error();
  auto* header = new (mapping->data()) ipc::ChannelHeader{};
  header->magic = ipc::channel_magic;
  header->version = ipc::channel_version;
  return std::unique_ptr<Channel>(
      new Channel(std::move(*memory), std::move(*mapping), std::move(*doorbell), std::move(*bell)));
}

Channel::Channel(ipc::Fd memory, ipc::Mapping mapping, ipc::Fd doorbell, ipc::Bell bell)
    : memory_(std::move(memory)),
      mapping_(std::move(mapping)),
      doorbell_(std::move(doorbell)),
      bell_(std::move(bell)),
      submissions_(ring(0), header().submission_tail, header().submission_head),
      completions_(ring(1), header().completion_tail, header().completion_head) {}

Channel::~Channel() {
  // A client that punches holes keeps the kernel from unmapping the rings, and this process from mapping anything else
  // meanwhile.
  if (!sealed_) static_cast<void>(ipc::add_seals(memory_, ipc::seal_future_write));
}

Result<void> Channel::seal() {
  if (auto sealed = ipc::add_seals(memory_, ipc::seal_future_write | F_SEAL_SEAL); !sealed) return sealed;
  sealed_ = true;
  mapping_.populate();
  return {};
}

Result<std::optional<ipc::Record>> Channel::next() {
  if (!open_) return std::optional<ipc::Record>{};
  return submissions_.next();
}

Result<void> Channel::complete(ipc::CompletionType type, std::span<const std::byte> body) {
  if (open_ && backlog_.empty()) {
    auto written = completions_.try_write(static_cast<std::uint16_t>(type), body);
    if (!written) return written.error();
    if (*written) return {};
  }
  const auto subject = subject_of(type, body);
  if (subject && replaces_another(*subject, body)) return {};
  backlog_.push_back({static_cast<std::uint16_t>(type), {body.begin(), body.end()}});
  if (subject) news_.emplace(*subject, popped_ + backlog_.size() - 1);
  backlog_bytes_ += backlog_.back().bytes();
  if (backlog_bytes_ <= backlog_bytes_max) return {};
  return muster::Error(muster::Code::quota_exceeded, "the client doesn't read its completions, which take " +
                                                         ipc::over_text(backlog_bytes_, backlog_bytes_max));
}

/// What a completion is news about; nothing if it isn't news.
std::optional<Channel::Subject> Channel::subject_of(ipc::CompletionType type, std::span<const std::byte> body) {
  if (type == ipc::CompletionType::memory_wanted) return Subject{type, {}};
  if (type != ipc::CompletionType::group_changed) return std::nullopt;
  Subject subject{type, {}};
  std::memcpy(&subject.second, body.data(), sizeof subject.second);  // the seat comes first in the body
  return subject;
}

/// Replaces earlier news about the same subject that still wait, as only the latest counts. Otherwise a process that
/// joins and leaves a group again and again could fill the backlog of clients that compute.
bool Channel::replaces_another(const Subject& subject, std::span<const std::byte> body) {
  const auto found = news_.find(subject);
  if (found == news_.end()) return false;
  auto& earlier = backlog_[found->second - popped_];
  backlog_bytes_ -= earlier.bytes();
  earlier.body.assign(body.begin(), body.end());
  backlog_bytes_ += earlier.bytes();
  return true;
}

void Channel::pop_backlog() {
  const auto& front = backlog_.front();
  if (const auto subject = subject_of(static_cast<ipc::CompletionType>(front.type), front.body)) news_.erase(*subject);
  backlog_bytes_ -= front.bytes();
  backlog_.pop_front();
  ++popped_;
}

Result<void> Channel::flush() {
  if (!open_) return {};
  while (!backlog_.empty()) {
    auto written = completions_.try_write(backlog_.front().type, backlog_.front().body);
    if (!written) return written.error();
    if (!*written) {
      waits_for_room_ = true;
      header().completions_wait.store(1, std::memory_order_seq_cst);
      // The client may have made room between the attempt and the flag.
      written = completions_.try_write(backlog_.front().type, backlog_.front().body);
      if (!written) return written.error();
      if (!*written) break;
    }
    pop_backlog();
  }
  if (backlog_.empty() && std::exchange(waits_for_room_, false))
    header().completions_wait.store(0, std::memory_order_relaxed);
  completions_.publish();
  return {};
}

bool Channel::is_waited_for() const {
  return open_ && (header().client_sleeps.load(std::memory_order_seq_cst) != 0 ||
                   header().notify_armed.load(std::memory_order_seq_cst) != 0);
}

void Channel::wake() {
  if (header().client_sleeps.load(std::memory_order_seq_cst) != 0) {
    header().client_sleeps.store(0, std::memory_order_seq_cst);
    ipc::futex_wake_all(header().client_sleeps);
  }
  if (header().notify_armed.load(std::memory_order_seq_cst) != 0) {
    header().notify_armed.store(0, std::memory_order_seq_cst);
    ipc::ring(bell_.teller);
  }
}

}  // namespace musterd
