// Both ends run the same binary, so plain structs travel as they are in memory.
#include "link.hpp"

#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string>

#include <fmt/format.h>

namespace muster::cli {

namespace {

struct Header {
  std::uint8_t code = 0;  ///< 0: a report; else an Error's
  std::uint64_t wrong = 0;
  std::uint64_t samples = 0;
  std::uint64_t message_bytes = 0;
  std::uint64_t hint_bytes = 0;
  Load load;
};

bool write_all(const ipc::Fd& pipe, const void* data, std::size_t bytes) {
  const auto* at = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = ::write(pipe.get(), at, bytes);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    at += written;
    bytes -= static_cast<std::size_t>(written);
  }
  return true;
}

bool read_all(const ipc::Fd& pipe, void* data, std::size_t bytes) {
  auto* at = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t count = ::read(pipe.get(), at, bytes);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    at += count;
    bytes -= static_cast<std::size_t>(count);
  }
  return true;
}

}  // namespace

void send_report(const ipc::Fd& pipe, const SizeReport& report) {
  const Header header{0, report.wrong, report.samples.size(), 0, 0, report.load};
  if (write_all(pipe, &header, sizeof header))
    write_all(pipe, report.samples.data(), report.samples.size() * sizeof(Sample));
}

void send_error(const ipc::Fd& pipe, const Error& error) {
  const Header header{static_cast<std::uint8_t>(error.code()), 0, 0, error.message().size(), error.hint().size(), {}};
  if (write_all(pipe, &header, sizeof header) && write_all(pipe, error.message().data(), error.message().size()))
    write_all(pipe, error.hint().data(), error.hint().size());
}

Result<SizeReport> receive_report(const ipc::Fd& pipe, int rank) {
  const Error lost(Code::peer_lost, fmt::format("rank {} of the benchmark died", rank),
                   "see `dmesg | tail`; use fewer ranks or smaller sizes if memory is short", {rank});
  Header header;
  if (!read_all(pipe, &header, sizeof header)) return lost;
  if (header.code == 0) {
    SizeReport report{header.wrong, std::vector<Sample>(header.samples), header.load};
    if (!read_all(pipe, report.samples.data(), header.samples * sizeof(Sample))) return lost;
    return report;
  }
  std::string message(header.message_bytes, ' ');
  std::string hint(header.hint_bytes, ' ');
  if (!read_all(pipe, message.data(), message.size()) || !read_all(pipe, hint.data(), hint.size())) return lost;
  return Error(static_cast<Code>(header.code), fmt::format("rank {}: {}", rank, message), hint);
}

}  // namespace muster::cli
