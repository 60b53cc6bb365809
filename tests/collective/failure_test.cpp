// An error that is remembered takes little memory, and says as much as there is memory for.
#include <catch2/catch.hpp>

#include <numeric>

#include "collective/failure.hpp"

using muster::Code;
using muster::Error;
using musterd::Failure;

namespace {

std::vector<int> ranks_up_to(int count) {
  std::vector<int> ranks(static_cast<std::size_t>(count));
  std::iota(ranks.begin(), ranks.end(), 0);
  return ranks;
}

bool same(const Error& a, const Error& b) {
  return a.code() == b.code() && a.message() == b.message() && a.hint() == b.hint() && a.ranks() == b.ranks();
}

}  // namespace

TEST_CASE("ranks get the error as it was, however many ranks it names") {
  const std::vector<std::vector<int>> named{{},     ranks_up_to(16), ranks_up_to(17), ranks_up_to(1000),
                                            {2, 1}, {5, 3000},       {-1, 3},         std::vector<int>(20, 7)};
  for (auto ranks : named) {
    const Error error(Code::timeout, "message", "hint", std::move(ranks));
    const Failure failure(error, 1000);
    CHECK(same(failure.error(), error));
    CHECK(failure.code() == Code::timeout);
  }
  // Numbers that can't be in a set of the group's ranks.
  auto strange = ranks_up_to(20);
  strange.back() = 1000;
  const Error error(Code::invalid, "message", {}, strange);
  CHECK(same(Failure(error, 1000).error(), error));
}

TEST_CASE("many ranks take no more memory than few") {
  const Failure few(Error(Code::timeout, "message", {}, {1}), 1000);
  const Failure many(Error(Code::timeout, "message", {}, ranks_up_to(1000)), 1000);
  CHECK(many.bytes() <= few.bytes());
}

TEST_CASE("a failure that has to be short loses its hint, then its ranks, then the end of its message") {
  const Error error(Code::invalid, std::string(300, 'm'), std::string(100, 'h'), {1, 2});
  const std::size_t whole = Failure(error, 4).bytes();
  const auto shortened = [&](std::size_t bytes_max) {
    Failure failure(error, 4);
    failure.shorten(bytes_max);
    return failure.error();
  };
  CHECK(same(shortened(whole), error));
  CHECK(same(shortened(whole - 1), Error(Code::invalid, std::string(300, 'm'), {}, {1, 2})));
  CHECK(same(shortened(whole - 100), Error(Code::invalid, std::string(300, 'm'), {}, {1, 2})));
  CHECK(same(shortened(whole - 101), Error(Code::invalid, std::string(300, 'm'))));
  CHECK(same(shortened(sizeof(Error) + 10), Error(Code::invalid, std::string(10, 'm') + "...")));
  CHECK(same(shortened(0), Error(Code::invalid, "...")));
}

TEST_CASE("a message is not cut inside of a character") {
  Failure failure(Error(Code::invalid, "a\u00fc\u00fc\u00fc"), 2);
  failure.shorten(sizeof(Error) + 4);
  CHECK(failure.error().message() == "a\u00fc...");
}

TEST_CASE("a short failure still names many ranks, as they are a set") {
  Failure failure(Error(Code::timeout, std::string(300, 'm'), {}, ranks_up_to(64)), 64);
  failure.shorten(sizeof(Error) + 10);
  CHECK(failure.error().ranks() == ranks_up_to(64));
}
