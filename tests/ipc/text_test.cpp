#include <catch2/catch.hpp>

#include <muster/ipc/text.hpp>

using muster::ipc::cut;
using muster::ipc::is_text;
using muster::ipc::printable;
using muster::ipc::shortened;
using namespace std::string_view_literals;

TEST_CASE("text is UTF-8 without control characters") {
  CHECK(is_text(""));
  CHECK(is_text("dp/1[0,2]3"));
  CHECK(is_text("grün \u2713 \U0001F600"));
  CHECK_FALSE(is_text("two\nlines"));
  CHECK_FALSE(is_text("a\0b"sv));
  CHECK_FALSE(is_text("\x1b[2J"));
  CHECK_FALSE(is_text("\x7f"));
  CHECK_FALSE(is_text("\xc2\x85"));  // a control character beyond ASCII
}

TEST_CASE("characters that hide, or change how other text looks, are not text") {
  for (const auto* hidden : {"\u061c", "\u200b", "\u200d", "\u200e", "\u200f", "\u2028", "\u2029", "\u202a", "\u202e",
                             "\u2060", "\u2066", "\u2069", "\ufeff", "\U000E0041"}) {
    CHECK_FALSE(is_text(hidden));
    CHECK_FALSE(is_text("a" + std::string(hidden) + "b"));
  }
  CHECK(is_text("\u05d0\u05d1 \u0627\u0644 \u2010\u2027\u202f\u205f"));
}

TEST_CASE("bytes that look like UTF-8 but aren't are not text") {
  CHECK_FALSE(is_text("\xff"));
  CHECK_FALSE(is_text("\x80"));              // begins in the middle
  CHECK_FALSE(is_text("\xc3"));              // ends in the middle
  CHECK_FALSE(is_text("\xc3("));             // goes on with something else
  CHECK_FALSE(is_text("\xc1\x81"));          // overlong
  CHECK_FALSE(is_text("\xe0\x80\xaf"));      // overlong
  CHECK_FALSE(is_text("\xed\xa0\x80"));      // a surrogate
  CHECK_FALSE(is_text("\xf4\x90\x80\x80"));  // beyond Unicode
}

TEST_CASE("bytes that are not text are shown one by one") {
  CHECK(printable("grün") == "grün");
  CHECK(printable("a\x1b[2J") == "a\\x1b[2J");
  CHECK(printable("\xff\xfe") == "\\xff\\xfe");
  CHECK(printable("a\u202eb") == "a\\xe2\\x80\\xaeb");
}

TEST_CASE("long text is cut, but not inside of a character") {
  CHECK(cut("grün", 5) == "grün");
  CHECK(cut("grün", 4) == "grü...");
  CHECK(cut("grün", 3) == "gr...");
  CHECK(cut("grün", 0) == "...");
  CHECK(shortened("grün", 3) == "gr...");
  CHECK(shortened("a\x1b[2J", 2) == "a\\x1b...");
}
