#include <muster/ipc/text_file.hpp>

#include <charconv>
#include <fstream>
#include <sstream>

namespace muster::ipc {

std::optional<std::string> read_text_file(const std::string& path) {
  std::ifstream file(path);
  if (!file) return std::nullopt;
  std::ostringstream text;
  text << file.rdbuf();
  std::string found = text.str();
  if (file.bad()) return std::nullopt;
  while (!found.empty() && found.back() == '\n') found.pop_back();
  return found;
}

std::optional<std::uint64_t> number_after(const std::string& text, const std::string& key) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(key) || line.size() == key.size()) continue;
    const char next = line[key.size()];
    if (next != ' ' && next != ':' && next != '\t') continue;
    const auto digit = line.find_first_of("0123456789", key.size());
    std::uint64_t number = 0;
    if (digit != std::string::npos &&
        std::from_chars(line.data() + digit, line.data() + line.size(), number).ec == std::errc())
      return number;
  }
  return std::nullopt;
}

}  // namespace muster::ipc
