// stdout may be shared with our caller, so it stays blocking. A pipe that poll() reports as writable takes PIPE_BUF
// bytes.
#include "output_queue.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>

namespace muster::cli {

void OutputQueue::push(int fd, std::string text) {
  if (text.empty()) return;
  bytes_ += text.size();
  if (!entries_.empty() && entries_.back().fd == fd) entries_.back().text += text;
  else entries_.push_back({fd, std::move(text)});
}

void OutputQueue::drop(int fd) {
  for (const auto& entry : entries_)
    if (entry.fd == fd) bytes_ -= entry.text.size();
  if (entries_.front().fd == fd) {
    bytes_ += offset_;
    offset_ = 0;
  }
  std::erase_if(entries_, [fd](const Entry& entry) { return entry.fd == fd; });
}

OutputQueue::Written OutputQueue::write_some() {
  auto& first = entries_.front();
  const std::size_t bytes = std::min<std::size_t>(first.text.size() - offset_, PIPE_BUF);
  const ssize_t written = ::write(first.fd, first.text.data() + offset_, bytes);
  if (written < 0) {
    if (errno == EINTR || errno == EAGAIN) return Written::some;
    drop(first.fd);
    return Written::closed;
  }
  offset_ += static_cast<std::size_t>(written);
  bytes_ -= static_cast<std::size_t>(written);
  if (offset_ == first.text.size()) {
    entries_.pop_front();
    offset_ = 0;
  }
  return Written::some;
}

}  // namespace muster::cli
