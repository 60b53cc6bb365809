// JSON that any reader can parse, whatever names and texts users chose.
#include <catch2/catch.hpp>

#include <limits>

#include <muster/ipc/json.hpp>

using muster::ipc::JsonWriter;

TEST_CASE("objects, arrays and values") {
  JsonWriter json;
  json.begin_object().field("a", 1).field("b", 2.5).field("c", true).key("d").null();
  json.array("e", std::vector<std::string>{"x", "y"}).array("f", std::vector<int>{});
  json.key("g").begin_array().begin_object().end_object().begin_object().end_object().end_array().end_object();
  CHECK(json.text() == R"({"a": 1, "b": 2.5, "c": true, "d": null, "e": ["x", "y"], "f": [], "g": [{}, {}]})");
}

TEST_CASE("texts are escaped, and what is not UTF-8 is replaced") {
  JsonWriter json;
  json.begin_array().value("q\"\\ \n\x01").value("\xc3\xa9").value("\xff\xc3").value("[").value("{").end_array();
  CHECK(json.text() == "[\"q\\\"\\\\ \\u000a\\u0001\", \"\xc3\xa9\", \"\\ufffd\\ufffd\", \"[\", \"{\"]");
}

TEST_CASE("numbers that JSON doesn't have are null") {
  JsonWriter json;
  json.begin_array().value(std::numeric_limits<double>::quiet_NaN()).value(std::uint64_t{1} << 63).end_array();
  CHECK(json.text() == "[null, 9223372036854775808]");
}
