// The daemon moves together what a dead process leaves in nearly empty segments, and no holder notices.
#include <catch2/catch.hpp>

#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/connection.hpp"
#include "ops/objects.hpp"
#include "../daemon.hpp"

namespace {

using namespace std::chrono_literals;
using muster::Client;
using muster::Ref;
using muster::test::Daemon;
using muster::test::filled;
using muster::test::floats;
using muster::test::memory_used;

constexpr std::int64_t floats_each = 256;  // 1 KiB
/// Room for one segment with everything that was moved, and for small segments that one array may keep.
constexpr std::uint64_t little = 512 << 10;

/// A pipe in one direction.
struct Pipe {
  Pipe() { REQUIRE(::pipe(ends.data()) == 0); }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  ~Pipe() {
    for (const int end : ends) ::close(end);
  }
  void no_more_is_written() { ::close(std::exchange(ends[1], -1)); }
  void write(const std::string& bytes) const {
    const std::size_t size = bytes.size();
    if (::write(ends[1], &size, sizeof size) < 0 || ::write(ends[1], bytes.data(), size) < 0) std::abort();
  }
  [[nodiscard]] std::string read() const {
    std::size_t size = 0;
    if (::read(ends[0], &size, sizeof size) != static_cast<ssize_t>(sizeof size)) return {};
    std::string bytes(size, '\0');
    return ::read(ends[0], bytes.data(), size) == static_cast<ssize_t>(size) ? bytes : std::string();
  }
  std::array<int, 2> ends{};
};

/// A process that made very many small arrays, and pickles of a few of them. All elements of array i are i.
class Maker {
 public:
  static constexpr int arrays = 20'000;
  static constexpr int kept_of = 500;
  static constexpr int kept = arrays / kept_of;

  explicit Maker(const Daemon& daemon) {
    child_ = muster::test::in_child([&] {
      Client client = daemon.connect();
      std::vector<Ref> refs;
      for (int i = 0; i < arrays; ++i) refs.push_back(filled(client, floats_each, static_cast<float>(i)));
      for (int i = 0; i < arrays; i += kept_of) pickles_.write(refs[static_cast<std::size_t>(i)].serialize().value());
      return !go_.read().empty();
    });
    pickles_.no_more_is_written();
    for (int i = 0; i < kept; ++i) pickles.push_back(pickles_.read());
  }
  void end() {
    go_.write("go");
    REQUIRE(muster::test::succeeded(child_));
  }
  static float value(std::size_t index) { return static_cast<float>(index * kept_of); }

  std::vector<std::string> pickles;

 private:
  Pipe pickles_;
  Pipe go_;
  pid_t child_ = -1;
};

bool falls_to(const Client& client, std::uint64_t bytes) {
  return client.connection()->wait([&] { return memory_used(client) <= bytes; },
                                   std::chrono::steady_clock::now() + 10s);
}

bool is_all(const Ref& ref, float value) {
  return floats(ref) == std::vector<float>(static_cast<std::size_t>(floats_each), value);
}

}  // namespace

TEST_CASE("a few small arrays that are left of a dead process's many are moved together") {
  const Daemon daemon("1GiB");
  Client reader = daemon.connect();
  const auto before = memory_used(reader);
  Maker maker(daemon);
  std::vector<Ref> refs;
  for (const auto& pickle : maker.pickles) refs.push_back(reader.deserialize(pickle).value());
  // Some were read before the move.
  for (std::size_t i = 0; i < 20; ++i) CHECK(is_all(refs[i], Maker::value(i)));
  auto views = refs[3].get().value();
  maker.end();

  // Memory under a view stays as long as the view does.
  CHECK(falls_to(reader, before + (1 << 20) + little));
  CHECK(views[0].span<float>()[100] == Maker::value(3));
  CHECK(is_all(refs[3], Maker::value(3)));
  CHECK(views[0].span<float>()[255] == Maker::value(3));
  views.clear();
  CHECK(falls_to(reader, before + little));
  for (std::size_t i = 0; i < refs.size(); ++i) CHECK(is_all(refs[i], Maker::value(i)));
}

TEST_CASE("users that know a moved array's old place can go on with it") {
  const Daemon daemon("1GiB");
  Client reader = daemon.connect();
  const auto before = memory_used(reader);
  Maker maker(daemon);
  std::vector<Ref> refs;
  for (std::size_t i = 0; i < 20; ++i) refs.push_back(reader.deserialize(maker.pickles[i]).value());
  maker.end();
  REQUIRE(falls_to(reader, before + little));

  SECTION("a part of it") {
    // The client does not know of the move yet when it names the rows.
    const Ref rows = muster::detail::slice(refs[5], 64, 128).value();
    CHECK(floats(rows) == std::vector<float>(128, Maker::value(5)));
    const Ref again = muster::detail::slice(rows, 1, 2).value();
    CHECK(floats(again) == std::vector<float>(2, Maker::value(5)));
    CHECK(is_all(refs[5], Maker::value(5)));
  }
  SECTION("an op") {
    const auto sum = reader.allreduce_refs(std::vector<Ref>{refs[2], refs[7]}).value().ref(10s).value();
    CHECK(is_all(sum, Maker::value(2) + Maker::value(7)));
  }
  SECTION("a pickle of it, and a pickle from before") {
    CHECK(is_all(reader.deserialize(refs[1].serialize().value()).value(), Maker::value(1)));
    CHECK(is_all(reader.deserialize(maker.pickles[39]).value(), Maker::value(39)));
  }
  SECTION("many threads at once") {
    std::atomic<int> right = 0;
    std::vector<std::thread> threads;
    for (int thread = 0; thread < 8; ++thread)
      threads.emplace_back([&] {
        for (std::size_t i = 0; i < refs.size(); ++i) right += is_all(refs[i], Maker::value(i)) ? 1 : 0;
      });
    for (auto& thread : threads) thread.join();
    CHECK(right == 8 * static_cast<int>(refs.size()));
  }
  SECTION("a forked child") {
    CHECK(is_all(refs[0], Maker::value(0)));
    CHECK(muster::test::succeeded(
        muster::test::in_child([&] { return is_all(refs[0], Maker::value(0)) && is_all(refs[1], Maker::value(1)); })));
  }
  refs.clear();
}
