// The eight ANSI colours that every terminal has.
#include "terminal.hpp"

#include <unistd.h>

#include <array>
#include <cstdlib>
#include <string_view>

#include <fmt/format.h>

namespace muster::cli {

namespace {

std::string paint(const std::string& text, int colour) { return fmt::format("\x1b[{}m{}\x1b[0m", colour, text); }

}  // namespace

bool knows_escapes() {
  const char* terminal = std::getenv("TERM");
  return terminal != nullptr && std::string_view(terminal) != "dumb";
}

bool wants_colour(int fd) {
  const char* refused = std::getenv("NO_COLOR");
  if (refused != nullptr && *refused != '\0') return false;
  return ::isatty(fd) == 1 && knows_escapes();
}

std::string rank_prefix(int rank, bool colour) {
  constexpr std::array colours{36, 33, 32, 35, 34, 31};
  const std::string text = fmt::format("[{}]", rank);
  return colour ? paint(text, colours[static_cast<std::size_t>(rank) % colours.size()]) : text;
}

std::string tinted(const std::string& text, Tint tint, bool colour) {
  if (!colour) return text;
  return paint(text, tint == Tint::green ? 32 : tint == Tint::yellow ? 33 : 31);
}

}  // namespace muster::cli
