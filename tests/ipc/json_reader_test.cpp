// Documents of our own come back as they were written; anything else is an error.
#include <catch2/catch.hpp>

#include <muster/ipc/json.hpp>
#include <muster/ipc/json_reader.hpp>

using muster::ipc::Json;
using muster::ipc::JsonWriter;

TEST_CASE("what the writer wrote comes back") {
  JsonWriter json;
  const std::string text = "q\"\\ \n\x01 \xc3\xa9 /";
  json.begin_object().field("text", text).field("number", 85'899'345'920).field("negative", -2.5).field("yes", true);
  json.key("nothing")
      .null()
      .array("list", std::vector<int>{1, 2})
      .key("inner")
      .begin_object()
      .end_object()
      .end_object();
  const auto read = Json::parse(json.text());
  REQUIRE(read);
  CHECK((*read)["text"].text() == text);
  CHECK((*read)["number"].number() == 85'899'345'920.0);
  CHECK((*read)["negative"].number() == -2.5);
  CHECK((*read)["yes"].truth());
  CHECK((*read)["nothing"].is_null());
  REQUIRE((*read)["list"].array().size() == 2);
  CHECK((*read)["list"].array()[1].number() == 2);
}

TEST_CASE("what is missing or of another kind reads as empty") {
  const auto read = Json::parse(R"( {"text": "x", "list": [ ] } )");
  REQUIRE(read);
  CHECK((*read)["none"].is_null());
  CHECK((*read)["none"]["deeper"].text().empty());
  CHECK((*read)["text"].number() == 0);
  CHECK((*read)["text"]["key"].is_null());
  CHECK_FALSE((*read)["list"].truth());
  CHECK((*read)["list"].array().empty());
}

TEST_CASE("escapes of other writers are understood") {
  const auto read = Json::parse(R"(["\u00e9\ud83d\ude00\t\/"])");
  REQUIRE(read);
  CHECK(read->array()[0].text() == "\xc3\xa9\xf0\x9f\x98\x80\t/");
}

TEST_CASE("what is not one JSON document is refused") {
  for (const char* text : {"",
                           " ",
                           "{",
                           "[1, 2",
                           "[1,]",
                           "{\"a\"}",
                           "{\"a\": }",
                           "{a: 1}",
                           "tru",
                           "nan",
                           "inf",
                           "-inf",
                           "+1",
                           "1.",
                           "-",
                           "\"open",
                           "\"\\x\"",
                           "\"\\u12\"",
                           "\"\\ud800\"",
                           "\"line\nbreak\"",
                           "{} {}",
                           "[1] warning: a driver prints"}) {
    INFO(text);
    const auto read = Json::parse(text);
    REQUIRE_FALSE(read);
    CHECK(read.error().code() == muster::Code::invalid);
  }
}

TEST_CASE("deep nesting is refused, not followed") {
  const auto nested = [](std::size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  CHECK(Json::parse(nested(Json::depth_max)));
  CHECK_FALSE(Json::parse(nested(Json::depth_max + 2)));
  CHECK_FALSE(Json::parse(nested(1'000'000)));
}
