// Sizes, ages and tables as people read them.
#include <catch2/catch.hpp>

#include "text.hpp"

using namespace muster::cli;

TEST_CASE("ages and counts are short") {
  CHECK(format_age(0.25) == "250 ms");
  CHECK(format_age(3.21) == "3.2 s");
  CHECK(format_age(59.4) == "59 s");
  CHECK(format_age(125) == "2 min");
  CHECK(format_age(2 * 3600 + 5 * 60) == "2 h 05 min");
  CHECK(format_age(5 * 86'400) == "5 d");
  CHECK(format_count(1234567) == "1 234 567");
  CHECK(format_count(123) == "123");
  CHECK(format_shape(std::vector<std::int64_t>{}) == "()");
  CHECK(format_shape(std::vector<std::int64_t>{3}) == "(3,)");
  CHECK(format_shape(std::vector<std::int64_t>{3, 4}) == "(3, 4)");
  CHECK(plural(1, "rank") == "1 rank");
  CHECK(plural(2, "rank") == "2 ranks");
}

TEST_CASE("the nearest known word is suggested") {
  const std::vector<std::string> options{"--json", "--memory", "--user-memory", "--socket", "--group", "--grace"};
  CHECK(nearest("--gruop", options) == "--group");
  CHECK(nearest("--sokcet", options) == "--socket");
  CHECK(nearest("--mem", options) == "--memory");
  CHECK(nearest("--jsno", options) == "--json");
  CHECK(nearest("--verbose", options).empty());
  CHECK(nearest("--x", {}).empty());
}

TEST_CASE("a table's columns are as wide as their widest cell") {
  Table table({{"NAME", Align::left}, {"SIZE", Align::right}});
  table.add({"a", "10"});
  table.add({"longer name", "1"});
  CHECK(table.render() ==
        "NAME         SIZE\n"
        "a              10\n"
        "longer name     1\n");
}
