// What the books tell of NCCL, and what it prints.
#include <sstream>

#include "ranks.hpp"

using namespace fake_nccl::testing;

TEST_CASE("communicators, their sockets and threads, buffers and memory are in the books, and gone at the end") {
  const Machine machine("devices = 2\n");
  {
    Ranks ranks(2);
    ranks.meet();
    ranks.each([](Peer& peer) { CHECK(peer.code(Op::nccl_memory) == ncclSuccess); });
    const auto live = part_of(machine.books(), "live");
    CHECK(contains(live, R"("communicators": 2,)"));
    CHECK(contains(live, R"("registered_buffers": 2,)"));
    CHECK(contains(live, R"("nccl_memory": 2,)"));
    CHECK(contains(live, R"("nccl_sockets": 2)"));
    // One that moves frames, and one that does what isn't blocking.
    CHECK(contains(live, R"("nccl_threads": 4,)"));
    ranks.each([](Peer& peer) { CHECK(peer.code(Op::nccl_give_back) == ncclSuccess); });
    ranks.destroy();
    const auto after = part_of(machine.books(), "live");
    for (const auto* item : {"communicators", "registered_buffers", "nccl_memory", "nccl_threads"})
      CHECK(contains(after, "\"" + std::string(item) + "\": 0,"));
  }
  CHECK(machine.books_are_empty());
}

TEST_CASE("an init that is aborted leaves nothing") {
  const Machine machine("devices = 2\n");
  {
    Peer peer;
    const auto id = peer.ask(Op::nccl_unique_id);
    Request request{Op::nccl_init, 2, 0, {}};
    std::memcpy(request.payload, id.payload, sizeof(request.payload));
    CHECK(peer.ask(request).code == ncclInProgress);
    CHECK(peer.code(Op::nccl_abort) == ncclSuccess);
  }
  CHECK(machine.books_are_empty());
}

TEST_CASE("a communicator that a process leaves behind is told") {
  const Machine machine;
  {
    Peer peer;
    REQUIRE(peer.code(Op::nccl_init_odd) == ncclSuccess);
  }
  CHECK(contains(part_of(machine.books(), "left"), R"("communicators": 1,)"));
  CHECK_FALSE(machine.books_are_empty());
}

TEST_CASE("NCCL_DEBUG prints the version, the communicator, and why a call fails") {
  const Machine machine;
  const auto file = machine.path() / "nccl.log";
  ::setenv("NCCL_DEBUG", "INFO", 1);
  ::setenv("NCCL_DEBUG_FILE", file.c_str(), 1);
  {
    Peer peer;
    CHECK(peer.code(Op::nccl_init_odd, 8) == ncclInvalidArgument);
    const auto last = peer.ask(Op::nccl_last_error);
    CHECK(contains(reinterpret_cast<const char*>(last.payload), "another size"));
    REQUIRE(peer.code(Op::nccl_init_odd) == ncclSuccess);
    CHECK(peer.code(Op::nccl_destroy) == ncclSuccess);
  }
  ::unsetenv("NCCL_DEBUG");
  ::unsetenv("NCCL_DEBUG_FILE");
  std::ostringstream text;
  text << std::ifstream(file).rdbuf();
  CHECK(contains(text.str(), "NCCL version 2.32.3"));
  CHECK(contains(text.str(), "Init COMPLETE"));
  CHECK(contains(text.str(), "NCCL WARN ncclConfig_t has another size"));
}
