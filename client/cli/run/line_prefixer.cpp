// A carriage return alone decides nothing: a newline after it ends the line, anything else after it starts a redraw.
#include "line_prefixer.hpp"

namespace muster::cli {

void LinePrefixer::append_line(std::string& out) {
  out += prefix_;
  if (continued_) out += '+';
  out += ' ';
  out += line_;
  out += '\n';
  line_.clear();
  continued_ = false;
}

void LinePrefixer::append_part(std::string_view part, std::string& out) {
  while (line_.size() + part.size() > line_bytes_max) {
    const std::size_t room = line_bytes_max - line_.size();
    line_ += part.substr(0, room);
    part.remove_prefix(room);
    append_line(out);
    continued_ = true;
  }
  line_ += part;
}

void LinePrefixer::end_redraw(TimePoint now, std::string& out) {
  if (line_.empty()) return;
  if (now - redrawn_at_ < redraw_interval) {
    hidden_ = std::move(line_);
    line_.clear();
    return;
  }
  redrawn_at_ = now;
  hidden_.clear();
  append_line(out);
}

std::string LinePrefixer::take(std::string_view bytes, TimePoint now) {
  std::string out;
  while (!bytes.empty()) {
    if (after_return_) {
      after_return_ = false;
      if (bytes.front() != '\n') end_redraw(now, out);
    }
    const auto end = bytes.find_first_of("\r\n");
    append_part(bytes.substr(0, end), out);
    if (end == std::string_view::npos) break;
    if (bytes[end] == '\r') {
      after_return_ = true;
    } else {
      if (line_.empty() && !hidden_.empty()) line_ = hidden_;  // a bar that ends with "\r...\r\n" or a bare newline
      hidden_.clear();
      append_line(out);
    }
    bytes.remove_prefix(end + 1);
  }
  return out;
}

std::string LinePrefixer::finish() {
  std::string out;
  if (line_.empty()) line_ = std::move(hidden_);
  hidden_.clear();
  after_return_ = false;
  if (!line_.empty()) append_line(out);
  return out;
}

}  // namespace muster::cli
