// Sizes as people write them.
#include <catch2/catch.hpp>

#include <muster/ipc/byte_count.hpp>

using muster::ipc::parse_bytes;

TEST_CASE("sizes are read as people write them") {
  CHECK(parse_bytes("0").value() == 0);
  CHECK(parse_bytes("4096").value() == 4096);
  CHECK(parse_bytes("1K").value() == 1024);
  CHECK(parse_bytes("64M").value() == 64 << 20);
  CHECK(parse_bytes("2GiB").value() == 2ULL << 30);
  CHECK(parse_bytes("1.5 mb").value() == 3 << 19);
  CHECK(parse_bytes("1tib").value() == 1ULL << 40);
  // Rounded, so that everybody reads the same of it.
  CHECK(parse_bytes("1.7G").value() == 1'825'361'101);
}

TEST_CASE("what is no size says so") {
  for (const char* text : {"", "x", "-1", "1X", "1KK", "1e30", "1025T", "nan", "inf", "12 34", "K"}) {
    INFO(text);
    CHECK_FALSE(parse_bytes(text).ok());
  }
}
