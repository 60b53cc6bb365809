#include <catch2/catch.hpp>

#include <map>
#include <new>

#include "base/heap_reserve.hpp"
#include "ipc/random.hpp"
#include "memory/admission.hpp"

using namespace musterd;
using muster::Code;
using muster::Error;
using muster::Result;

namespace {

/// Requests that each want some units of a room, and what happened to each.
struct Room {
  std::uint64_t units = 0;
  std::vector<int> served = {};
  std::vector<Turn> turns = {};  ///< the turn of each attempt
  std::map<int, Code> given_up = {};
  Admission admission{100};

  void ask(int who, std::uint64_t wanted, int deadline = 1000, UserId user = 1000,
           Admission::Size size = Admission::Size::large) {
    admission.request(
        {user, {static_cast<std::uint32_t>(who)}}, size, TimePoint(std::chrono::seconds(deadline)),
        [this, who, wanted](Turn turn) -> Result<void> {
          turns.push_back(turn);
          if (wanted > units) return Error(Code::out_of_memory, "no room");
          units -= wanted;
          served.push_back(who);
          return {};
        },
        [this, who](const Error& error) { given_up.emplace(who, error.code()); });
  }
  void free(std::uint64_t more) {
    units += more;
    admission.retry();
  }
  void expire(int now) { admission.expire(TimePoint(std::chrono::seconds(now))); }
};

using Served = std::vector<int>;

}  // namespace

TEST_CASE("a request that fits is served at once") {
  Room room{.units = 10};
  room.ask(1, 10);
  CHECK(room.served == Served{1});
  CHECK(room.admission.waiting() == 0);
  CHECK_FALSE(room.admission.next_deadline());
}

TEST_CASE("a request that finds the line full is told how long it is") {
  for (const auto& [length, told] :
       {std::pair{1, "1 request waits for memory already"}, {2, "2 requests wait for memory already"}}) {
    Admission admission{static_cast<std::size_t>(length)};
    std::string message;
    for (int who = 0; who <= length; ++who)
      admission.request(
          {1000, {static_cast<std::uint32_t>(who + 1)}}, Admission::Size::large, TimePoint::max(),
          [](Turn) -> Result<void> { return Error(Code::out_of_memory, "no room"); },
          [&](const Error& error) { message = error.message(); });
    CHECK(message == told);
  }
}

TEST_CASE("no request of a user overtakes another one of that user, even if it would fit") {
  Room room{.units = 5};
  room.ask(1, 8);
  room.ask(2, 3);
  CHECK(room.served.empty());
  room.free(2);
  CHECK(room.served.empty());
  room.free(1);
  CHECK(room.served == Served{1});
  room.free(3);
  CHECK(room.served == Served{1, 2});
}

TEST_CASE("a small request is tried before waiting ones, and waits behind them if it does not fit") {
  Room room{.units = 5};
  room.ask(1, 8);
  room.ask(2, 3, 1000, 1000, Admission::Size::small);
  CHECK(room.served == Served{2});
  CHECK(room.turns.back() == Turn::before_others);
  room.ask(3, 3, 1000, 1000, Admission::Size::small);
  room.free(7);
  CHECK(room.served == Served{2, 1});
  room.free(3);
  CHECK(room.served == Served{2, 1, 3});
}

TEST_CASE("one release serves as many as fit") {
  Room room;
  for (int who = 1; who <= 4; ++who) room.ask(who, 2);
  room.free(6);
  CHECK(room.served == Served{1, 2, 3});
  CHECK(room.admission.waiting() == 1);
}

TEST_CASE("a passed deadline ends a request's wait and lets the next one go on") {
  Room room{.units = 4};
  room.ask(1, 8, 10);
  room.ask(2, 4, 20);
  CHECK(room.admission.next_deadline() == TimePoint(std::chrono::seconds(10)));
  room.expire(9);
  CHECK(room.given_up.empty());
  room.expire(10);
  CHECK(room.given_up == std::map<int, Code>{{1, Code::out_of_memory}});
  CHECK(room.served == Served{2});
}

TEST_CASE("very many requests that are late at once are given up a few at a time, the earliest first") {
  constexpr std::size_t effort_max = 10;
  Admission admission(100, effort_max);
  std::vector<int> given_up;
  const auto ask = [&](int who, int deadline, std::size_t effort) {
    admission.request(
        {0, {}}, Admission::Size::large, TimePoint(std::chrono::seconds(deadline)),
        [](Turn) -> Result<void> { return Error(Code::out_of_memory, "no room"); },
        [&given_up, who](const Error&) { given_up.push_back(who); }, {.give_up = effort});
  };
  const TimePoint late(std::chrono::seconds(50));
  SECTION("that came one by one") {
    for (int who = 1; who <= 25; ++who) ask(who, 50 - who, 1);
    for (const std::size_t left : {15U, 5U, 0U}) {
      REQUIRE(admission.next_deadline() <= late);
      admission.expire(late);
      CHECK(admission.waiting() == left);
    }
    CHECK(given_up.size() == 25);
    CHECK(std::is_sorted(given_up.rbegin(), given_up.rend()));
  }
  SECTION("that each take much effort") {
    for (int who = 1; who <= 3; ++who) ask(who, 50, 8);
    admission.expire(late);
    CHECK(given_up == std::vector{1, 2});
    admission.expire(late);
    CHECK(given_up == std::vector{1, 2, 3});
  }
  CHECK_FALSE(admission.next_deadline());
}

TEST_CASE("an attempt that throws ends its request, says so, and holds up nobody else") {
  Room room;
  bool throws = false;
  std::vector<std::string> told;
  room.admission.request(
      {1000, {1}}, Admission::Size::large, TimePoint::max(),
      [&](Turn) -> Result<void> {
        if (throws) throw std::bad_alloc();
        return Error(Code::out_of_memory, "no room");
      },
      [&](const Error& error) { told.push_back(error.message()); });
  room.ask(2, 3);
  throws = true;
  room.free(3);
  CHECK(told == std::vector{no_heap().message()});
  CHECK(room.served == Served{2});
  CHECK(room.admission.waiting() == 0);
}

TEST_CASE("an attempt is not copied, however often it is made") {
  struct Counted {
    explicit Counted(int& copies) : copies_(copies) {}
    Counted(const Counted& other) : copies_(other.copies_) { ++copies_; }
    Counted(Counted&&) = default;
    Counted& operator=(const Counted&) = delete;
    Counted& operator=(Counted&&) = delete;
    ~Counted() = default;
    Result<void> operator()(Turn) const { return Error(Code::out_of_memory, "no room"); }
    int& copies_;
  };
  int copies = 0;
  Admission admission(10);
  admission.request({0, {1}}, Admission::Size::large, TimePoint::max(), Counted(copies), [](const Error&) {});
  for (int i = 0; i < 10; ++i) admission.retry();
  CHECK(admission.waiting() == 1);
  CHECK(copies == 0);
}

namespace {

constexpr UserId alice = 1;
constexpr UserId bob = 2;
constexpr UserId carol = 3;

/// Requests of several users that wait for a room. Giving takes effort, so only some are served at a time.
struct SlowRoom {
  bool open = false;
  std::vector<std::pair<UserId, int>> served = {};
  std::map<UserId, int> asked = {};
  Admission admission{100, 10};

  void ask(UserId user, Effort effort = {}) {
    admission.request(
        {user, {static_cast<std::uint32_t>(user)}}, Admission::Size::large, TimePoint::max(),
        [this, user, who = ++asked[user]](Turn) -> Result<void> {
          if (!open) return Error(Code::out_of_memory, "no room");
          served.emplace_back(user, who);
          return {};
        },
        [](const Error&) { FAIL("nobody is given up"); }, effort);
  }
  /// Returns how many are served in each turn until all are.
  std::vector<std::size_t> turns() {
    std::vector<std::size_t> each;
    open = true;
    admission.retry();
    each.push_back(served.size());
    while (admission.goes_on() && each.size() < 100) {
      const std::size_t before = served.size();
      admission.go_on();
      each.push_back(served.size() - before);
    }
    return each;
  }
  static std::vector<std::pair<UserId, int>> in_turn(const std::vector<UserId>& users, int each) {
    std::vector<std::pair<UserId, int>> order;
    for (int i = 1; i <= each; ++i)
      for (const UserId user : users) order.emplace_back(user, i);
    return order;
  }
};

}  // namespace

TEST_CASE("very many requests that fit are served a few at a time, and users take turns as if it were at once") {
  SlowRoom room;
  for (const UserId user : {alice, bob, carol})
    for (int i = 0; i < 13; ++i) room.ask(user);
  SECTION("that each take little effort") {
    CHECK(room.turns() == std::vector<std::size_t>{10, 10, 10, 9});
    CHECK(room.served == room.in_turn({alice, bob, carol}, 13));
  }
  SECTION("while other calls disturb the turns") {
    room.open = true;
    room.admission.retry();
    // Others ask for another retry, which is under way already. A request comes that does not wait, and one that waits.
    for (int i = 0; i < 5; ++i) room.admission.retry();
    CHECK(room.served.size() == 10);
    room.ask(4);
    CHECK(room.served.back() == std::pair<UserId, int>(4, 1));
    room.served.pop_back();
    room.ask(alice);
    while (room.admission.goes_on()) room.admission.go_on();
    auto order = room.in_turn({alice, bob, carol}, 13);
    order.emplace_back(alice, 14);
    CHECK(room.served == order);
  }
  SECTION("while the requests whose turn it was have gone") {
    room.open = true;
    room.admission.retry();
    CHECK(room.served.back() == std::pair<UserId, int>(alice, 4));
    room.admission.forget({alice});
    room.admission.go_on();
    CHECK(room.served[10] == std::pair<UserId, int>(bob, 4));
    room.admission.forget({carol});
    while (room.admission.goes_on()) room.admission.go_on();
    CHECK(room.served.back() == std::pair<UserId, int>(bob, 13));
  }
  CHECK(room.admission.waiting() == 0);
  CHECK_FALSE(room.admission.goes_on());
}

TEST_CASE("an attempt with much effort ends the turn, and vain attempts take little") {
  SlowRoom room;
  for (int i = 0; i < 3; ++i) room.ask(alice, {.serve = 100});
  SECTION("one that takes more than a turn has a turn of its own") {
    CHECK(room.turns() == std::vector<std::size_t>{1, 1, 1, 0});  // then none is left
  }
  SECTION("of more users than a turn has room for, nobody fits") {
    for (UserId user = bob; user < 25; ++user) room.ask(user);
    room.admission.retry();
    int turns = 1;
    for (; room.admission.goes_on() && turns < 100; ++turns) room.admission.go_on();
    CHECK(turns == 3);
    CHECK(room.served.empty());
  }
}

TEST_CASE("memory that comes back during a retry is offered to requests that were tried before") {
  SlowRoom room;
  for (UserId user = 1; user <= 15; ++user) room.ask(user);
  room.admission.retry();  // ten of them are tried in vain
  REQUIRE(room.admission.goes_on());
  REQUIRE(room.served.empty());
  CHECK(room.turns().front() == 0);  // retry() itself does nothing now
  CHECK(room.served.size() == 15);
  CHECK(room.served.front() == std::pair<UserId, int>(11, 1));
}

TEST_CASE("a queue that is full gives up at once") {
  Room room;
  for (int who = 1; who <= 101; ++who) room.ask(who, 1);
  CHECK(room.given_up == std::map<int, Code>{{101, Code::out_of_memory}});
  CHECK(room.admission.waiting() == 100);
}

TEST_CASE("an error other than OutOfMemory ends the wait") {
  Admission admission(10);
  std::vector<Code> given_up;
  const auto note = [&](const Error& error) { given_up.push_back(error.code()); };
  bool quota = false;
  const auto attempt = [&](Turn) -> Result<void> {
    return Error(quota ? Code::quota_exceeded : Code::out_of_memory, "no");
  };
  admission.request({0, {1}}, Admission::Size::large, TimePoint::max(), attempt, note);
  CHECK(given_up.empty());
  quota = true;
  admission.request({0, {2}}, Admission::Size::large, TimePoint::max(), attempt, note);
  admission.retry();
  CHECK(given_up == std::vector{Code::quota_exceeded, Code::quota_exceeded});
  CHECK(admission.waiting() == 0);
}

TEST_CASE("a forgotten request is neither served nor told, and the next one counts as untried") {
  Room room{.units = 4};
  room.ask(1, 8);
  room.ask(2, 4);
  CHECK_FALSE(room.admission.has_untried_front());
  room.admission.forget({1});
  CHECK(room.admission.has_untried_front());
  room.admission.retry();
  CHECK(room.served == Served{2});
  CHECK(room.given_up.empty());
  CHECK_FALSE(room.admission.has_untried_front());
}

TEST_CASE("a cancelled request is neither served nor told, even while it is tried") {
  Room room{.units = 4};
  std::optional<Admission::WaiterId> waiter;
  int attempts = 0;
  const auto attempt = [&](Turn) -> Result<void> {
    if (++attempts == 2) room.admission.cancel(*waiter);
    return Error(Code::out_of_memory, "no room");
  };
  waiter = room.admission.request({1000, {1}}, Admission::Size::large, TimePoint::max(), attempt,
                                  [](const Error&) { FAIL("it was cancelled"); });
  room.ask(2, 4);
  SECTION("before") {
    room.admission.cancel(*waiter);
    room.admission.cancel(*waiter);
    CHECK(attempts == 1);
  }
  SECTION("meanwhile") {}
  room.admission.retry();
  CHECK(room.served == Served{2});
  CHECK(room.admission.waiting() == 0);
}

TEST_CASE("a waiting request of one user holds up no other user, and users take turns") {
  Room room{.units = 2};
  room.ask(1, 100, 1000, alice);
  room.ask(2, 2, 1000, bob);
  CHECK(room.served == Served{2});
  room.expire(1000);
  for (const int who : {3, 5, 7}) room.ask(who, 1, 2000, alice);
  for (const int who : {4, 6, 8}) room.ask(who, 1, 2000, bob);
  room.free(4);
  CHECK(room.served == Served{2, 3, 4, 5, 6});
}

TEST_CASE("an attempt may forget its own client") {
  Admission admission(10);
  int attempts = 0;
  const auto attempt = [&](Turn) -> Result<void> {
    if (++attempts == 2) admission.forget({1});
    return Error(Code::out_of_memory, "no room");
  };
  admission.request({0, {1}}, Admission::Size::large, TimePoint::max(), attempt,
                    [](const Error&) { FAIL("it was forgotten"); });
  admission.retry();
  CHECK(admission.waiting() == 0);
  admission.retry();
  CHECK(attempts == 2);
}

TEST_CASE("a request made by an attempt goes to the end of the line") {
  Room room;
  std::vector<std::string> order;
  bool open = false;
  const auto entry = [&](std::string name, std::function<void()> then) -> Admission::Attempt {
    return [&, name, then](Turn) -> Result<void> {
      if (!open) return Error(Code::out_of_memory, "no room");
      order.push_back(name);
      then();
      return {};
    };
  };
  const auto never = [](const Error&) { FAIL("nobody gives up"); };
  auto& admission = room.admission;
  const auto nothing = [] {};
  admission.request(
      {0, {1}}, Admission::Size::large, TimePoint::max(),
      entry("a",
            [&] {
              admission.request({0, {3}}, Admission::Size::large, TimePoint::max(), entry("c", nothing), never);
            }),
      never);
  admission.request({0, {2}}, Admission::Size::large, TimePoint::max(), entry("b", nothing), never);
  open = true;
  admission.retry();
  CHECK(order == std::vector<std::string>{"a", "b", "c"});
}

TEST_CASE("requests are served in order or given up by their deadline, whatever happens") {
  const auto seed = GENERATE(range<std::uint64_t>(1, 9));
  INFO("seed " << seed);
  muster::ipc::test::Random random(seed);
  Room room;
  std::map<int, int> deadlines;
  int now = 0;
  for (int who = 1; who <= 60; ++who) {
    deadlines[who] = now + static_cast<int>(random.between(1, 30));
    room.ask(who, random.between(1, 5), deadlines[who]);
    if (random.chance(0.4)) room.free(random.between(1, 6));
    if (random.chance(0.3)) room.expire(++now);
    CHECK(std::is_sorted(room.served.begin(), room.served.end()));
    for (const auto& [late, code] : room.given_up) CHECK(deadlines[late] <= now);
  }
  room.expire(1000);
  CHECK(room.admission.waiting() == 0);
  CHECK(room.served.size() + room.given_up.size() == 60);
}
