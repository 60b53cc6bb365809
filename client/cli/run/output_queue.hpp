// Text that waits to be written to stdout and stderr. Both share one queue, as they are often the same terminal: each
// line is written to its end before the next one starts.
#pragma once

#include <cstddef>
#include <deque>
#include <string>

namespace muster::cli {

class OutputQueue {
 public:
  /// While more than this waits, `muster run` does not read from the ranks, so that they wait instead of filling our
  /// memory.
  static constexpr std::size_t bytes_max = 1 << 20;

  void push(int fd, std::string text);
  [[nodiscard]] bool empty() const { return entries_.empty(); }
  [[nodiscard]] bool full() const { return bytes_ >= bytes_max; }
  /// The descriptor that the next write goes to. Requires that the queue is not empty().
  [[nodiscard]] int fd() const { return entries_.front().fd; }

  enum class Written { some, closed };
  /// Writes a little to fd(), which poll() found writable: no more than it takes without blocking. Returns `closed` if
  /// nobody reads it any more; then everything that waits for this descriptor is dropped.
  Written write_some();

 private:
  struct Entry {
    int fd;
    std::string text;
  };
  void drop(int fd);

  std::deque<Entry> entries_;
  std::size_t offset_ = 0;  ///< how much of the first entry is written
  std::size_t bytes_ = 0;
};

}  // namespace muster::cli
