// Cuts a rank's output into lines, however its bytes are split.
#include <catch2/catch.hpp>

#include "run/line_prefixer.hpp"

using muster::cli::LinePrefixer;
using muster::cli::TimePoint;

namespace {

const TimePoint start{std::chrono::hours(1)};

std::string all_of(LinePrefixer& prefixer, std::string_view text, std::size_t piece) {
  std::string out;
  for (std::size_t at = 0; at < text.size(); at += piece) out += prefixer.take(text.substr(at, piece), start);
  return out + prefixer.finish();
}

}  // namespace

TEST_CASE("lines get the prefix, wherever the bytes are cut") {
  for (std::size_t piece = 1; piece < 20; ++piece) {
    LinePrefixer prefixer("[7]");
    CHECK(all_of(prefixer, "one\n\ntwo\r\nthree", piece) == "[7] one\n[7] \n[7] two\n[7] three\n");
  }
}

TEST_CASE("a line is shown only when it is whole") {
  LinePrefixer prefixer("[0]");
  CHECK(prefixer.take("half", start).empty());
  CHECK(prefixer.take(" done\nnext", start) == "[0] half done\n");
  CHECK(prefixer.finish() == "[0] next\n");
  CHECK(prefixer.finish().empty());
}

TEST_CASE("a line beyond the limit is continued, and no byte is lost") {
  LinePrefixer prefixer("[0]");
  const std::string text(LinePrefixer::line_bytes_max + 3, 'x');
  const std::string first = "[0] " + std::string(LinePrefixer::line_bytes_max, 'x') + "\n";
  CHECK(all_of(prefixer, text + "\ny\n", 1000) == first + "[0]+ xxx\n[0] y\n");
}

TEST_CASE("a progress bar shows one state per interval, and always the last one") {
  LinePrefixer prefixer("[0]");
  CHECK(prefixer.take("\r1%\r2%\r3%", start) == "[0] 1%\n");
  CHECK(prefixer.take("\r4%\r", start + LinePrefixer::redraw_interval / 2).empty());
  CHECK(prefixer.take("5%\r", start + LinePrefixer::redraw_interval) == "[0] 4%\n");
  CHECK(prefixer.take("6%\r7%\r", start + LinePrefixer::redraw_interval).empty());
  CHECK(prefixer.take("\n", start + LinePrefixer::redraw_interval) == "[0] 7%\n");
}

TEST_CASE("a bar without anything after it is shown at the end") {
  LinePrefixer prefixer("[0]");
  CHECK(prefixer.take("\r1%\r2%\r", start) == "[0] 1%\n");
  CHECK(prefixer.finish() == "[0] 2%\n");
}
