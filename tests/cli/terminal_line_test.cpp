// What rank 0 draws on the terminal, and lines of other ranks in between.
#include <catch2/catch.hpp>

#include "run/terminal_line.hpp"

using muster::cli::TerminalAbility;
using muster::cli::TerminalLine;

namespace {

constexpr TerminalAbility terminal{20, true};
const std::string other = "[1] hello\n";

std::string interrupted(std::string_view text, const TerminalAbility& ability = terminal) {
  TerminalLine line;
  line.take(text);
  return line.interrupt(other, ability);
}

}  // namespace

TEST_CASE("between whole lines of rank 0 other ranks' lines are written unchanged") {
  for (const char* text : {"", "one\n", "one\r\n", "\r50%\r100%\n", "\n\n"}) CHECK(interrupted(text) == other);
}

TEST_CASE("a line that rank 0 has begun is erased before another's and drawn again after it") {
  CHECK(interrupted("loading...") == "\r\x1b[K[1] hello\nloading...");
  CHECK(interrupted("one\ntwo") == "\r\x1b[K[1] hello\ntwo");
  CHECK(interrupted("\r[##..]") == "\r\x1b[K[1] hello\n[##..]");
  CHECK(interrupted("\r\x1b[32m[##..]\x1b[0m\x1b[K") == "\r\x1b[K[1] hello\n\x1b[32m[##..]\x1b[0m\x1b[K");
}

TEST_CASE("a bar that ends with a carriage return is drawn again, too") {
  CHECK(interrupted("[#...]\r[##..]\r") == "\r\x1b[K[1] hello\n[##..]\r");
  CHECK(interrupted("[#...]\r[##") == "\r\x1b[K[1] hello\n[#...]\r[##");
}

TEST_CASE("the line is the same wherever the bytes are cut") {
  const std::string text = "one\ntwo\r\x1b[32mthree\x1b[0m\r\nfour\rfive";
  for (std::size_t piece = 1; piece < text.size(); ++piece) {
    TerminalLine line;
    for (std::size_t at = 0; at < text.size(); at += piece) line.take(std::string_view(text).substr(at, piece));
    CHECK(line.interrupt(other, terminal) == "\r\x1b[K[1] hello\nfour\rfive");
  }
}

TEST_CASE("a line that can't be drawn again is ended, and forgotten") {
  const std::string wide(21, 'x');
  const std::string long_text(TerminalLine::line_bytes_max + 1, 'x');
  const std::string long_invisible = long_text + "\r";
  for (const std::string& text : {wide, long_text, long_invisible, std::string("up\x1b[1A"), wide + "\rx"}) {
    TerminalLine line;
    line.take(text);
    CHECK(line.interrupt(other, terminal) == "\n" + other);
    CHECK(line.interrupt(other, terminal) == other);
  }
  CHECK(interrupted("loading...", {80, false}) == "\n" + other);
}

TEST_CASE("characters without width don't count, and wide ones count twice") {
  const std::string full(20, 'x');
  CHECK(interrupted("\x1b[1m" + full) == "\r\x1b[K[1] hello\n\x1b[1m" + full);
  CHECK(interrupted("\u2588\u2588" + full.substr(2)).starts_with("\r"));
  CHECK(interrupted("\u6f22" + full.substr(2)).starts_with("\r"));
  CHECK(interrupted("\u6f22" + full.substr(1)).starts_with("\n"));
}

TEST_CASE("at the end an unfinished line is ended if it is not empty") {
  const auto finished = [](std::string_view text) {
    TerminalLine line;
    line.take(text);
    return line.finish();
  };
  CHECK(finished("").empty());
  CHECK(finished("one\n").empty());
  CHECK(finished("one") == "\n");
  CHECK(finished("[##]\r") == "\n");
  CHECK(finished("[##]\r    \r") == "\r");
}

TEST_CASE("the last words are the last line that is not blank") {
  const auto words = [](std::string_view text) {
    TerminalLine line;
    line.take(text);
    return line.last_words();
  };
  CHECK(words("").empty());
  CHECK(words("one\ntwo\n\n  \n") == "two");
  CHECK(words("one\ntwo") == "two");
  CHECK(words("\x1b[31mError\x1b[0m: boom\n") == "Error: boom");
  CHECK(words("50%\r100%\r") == "100%");
}
