// Sizes as people write and read them.
#include <catch2/catch.hpp>

#include <muster/ipc/byte_count.hpp>

using muster::ipc::bytes_text;
using muster::ipc::over_text;
using muster::ipc::parse_bytes;

TEST_CASE("sizes are read as people write them") {
  CHECK(parse_bytes("0").value() == 0);
  CHECK(parse_bytes("4096").value() == 4096);
  CHECK(parse_bytes("1K").value() == 1024);
  CHECK(parse_bytes("64M").value() == 64 << 20);
  CHECK(parse_bytes("2GiB").value() == 2ULL << 30);
  CHECK(parse_bytes("1.5 mb").value() == 3 << 19);
  CHECK(parse_bytes("1tib").value() == 1ULL << 40);
  // Rounded, so that everybody reads the same number.
  CHECK(parse_bytes("1.7G").value() == 1'825'361'101);
}

TEST_CASE("a text that is not a size gives an error that says so") {
  for (const char* text : {"", "x", "-1", "1X", "1KK", "1e30", "1025T", "nan", "inf", "12 34", "K"}) {
    INFO(text);
    CHECK_FALSE(parse_bytes(text).ok());
  }
}

TEST_CASE("sizes are shown in units, rounded to what a reader needs") {
  CHECK(bytes_text(0) == "0 B");
  CHECK(bytes_text(1023) == "1023 B");
  CHECK(bytes_text(1024) == "1 KiB");
  CHECK(bytes_text(3 << 19) == "1.5 MiB");
  CHECK(bytes_text((64 << 20) + 1000) == "64 MiB");
  CHECK(bytes_text((1 << 20) - 1) == "1 MiB");
  CHECK(bytes_text(1ULL << 62) == "4194304 TiB");
  CHECK(bytes_text(1 << 20, 1 << 20) == "1 MiB");
}

TEST_CASE("a size and its limit never look alike") {
  CHECK(over_text(3 << 20, 1 << 20) == "3 MiB; the limit is 1 MiB");
  CHECK(over_text((1 << 20) + 1, 1 << 20) == "1048577 B; the limit is 1048576 B");
}
