// The books of a fake machine, and what only a strict driver does.
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "machine.hpp"

using namespace fake_gpu::testing;

namespace {

Request open_request(Peer& owner) {
  Request request{Op::open_memory, 0, 0, {}};
  const auto handle = owner.ask(Op::memory_handle);
  REQUIRE(handle.code == 0);
  std::memcpy(request.payload, handle.payload, sizeof(request.payload));
  return request;
}

}  // namespace

TEST_CASE("the books tell what processes have, and are empty when they have given it up") {
  const Machine machine;
  {
    Peer peer;
    REQUIRE(peer.code(Op::create, 4 * mebibyte) == 0);
    const auto books = machine.books();
    CHECK(contains(books, R"("memory": {"0": {"allocations": 1, "bytes": 4194304}})"));
    const auto live = part_of(books, "live");
    CHECK(contains(live, R"("contexts": 1)"));
    CHECK(contains(live, R"("handles": 1)"));
    CHECK(contains(live, R"("reservations": 1)"));
    CHECK(contains(live, R"("mappings": 1)"));
    CHECK_FALSE(machine.books_are_empty());
    REQUIRE(peer.code(Op::unimport) == 0);
    CHECK(contains(part_of(machine.books(), "live"), R"("mappings": 0)"));
  }
  CHECK(machine.books_are_empty());
}

TEST_CASE("the books tell what a process left behind that ended by itself") {
  const Machine machine;
  {
    Peer peer;
    REQUIRE(peer.code(Op::create, 4 * mebibyte) == 0);
  }
  const auto books = machine.books();
  CHECK(contains(books, R"("memory": {})"));
  CHECK(contains(part_of(books, "left"), R"("handles": 1)"));
  CHECK(contains(books, R"("state": "exited")"));
  CHECK_FALSE(machine.books_are_empty());
}

TEST_CASE("a process that was killed has left nothing") {
  const Machine machine;
  Peer peer;
  REQUIRE(peer.code(Op::create, 4 * mebibyte) == 0);
  peer.kill();
  CHECK(contains(machine.books(), R"("state": "died")"));
  CHECK(machine.books_are_empty());
}

TEST_CASE("processes that are killed at any moment leave nothing") {
  const Machine machine;
  for (int round = 0; round < 40; ++round) {
    Peer one(-1), two(0);
    one.tell({Op::init, 0, 0, {}});
    two.tell({Op::create, 2 * mebibyte, 0, {}});
    if (round % 2 == 0) static_cast<void>(two.answers(round / 10));
    one.kill();
    two.kill();
  }
  CHECK(machine.books_are_empty());
  Peer last;
  CHECK(last.code(Op::allocate_more) == 0);
}

TEST_CASE("memory that its owner has freed breaks the context of who still uses it") {
  const Machine machine;
  Peer owner, user;
  REQUIRE(owner.code(Op::allocate, 4 * mebibyte) == 0);
  REQUIRE(user.ask(open_request(owner)).code == 0);
  CHECK(user.code(Op::read, 0) == 0);
  REQUIRE(owner.code(Op::free) == 0);
  CHECK(user.code(Op::read, 0) == CUDA_ERROR_ILLEGAL_ADDRESS);
  CHECK(user.code(Op::allocate_more) == CUDA_ERROR_ILLEGAL_ADDRESS);
  user.kill();
}

TEST_CASE("memory of an owner that died is invalid, too") {
  const Machine machine;
  Peer owner, user;
  REQUIRE(owner.code(Op::allocate, 4 * mebibyte) == 0);
  const auto request = open_request(owner);
  REQUIRE(user.ask(request).code == 0);
  owner.kill();
  CHECK(user.code(Op::read, 0) == CUDA_ERROR_ILLEGAL_ADDRESS);
  user.kill();
  Peer late;
  CHECK(late.ask(request).code == CUDA_ERROR_INVALID_HANDLE);
}

TEST_CASE("a process that was stopped in the middle of a call stops nobody else") {
  const Machine machine;
  Peer peer;
  const auto stopped = ::fork();
  if (stopped == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const int lock = ::open((machine.path() / "lock").c_str(), O_RDWR | O_CREAT, 0600);
    const auto pid = ::getpid();
    const bool has_it = ::flock(lock, LOCK_EX) == 0 && ::pwrite(lock, &pid, sizeof(pid), 0) == sizeof(pid);
    ::raise(has_it ? SIGSTOP : SIGABRT);
  }
  int status = 0;
  REQUIRE(::waitpid(stopped, &status, WUNTRACED) == stopped);
  REQUIRE(WIFSTOPPED(status));
  CHECK(peer.code(Op::allocate_more) == 0);
  ::kill(stopped, SIGKILL);
  ::waitpid(stopped, nullptr, 0);
}

TEST_CASE("a host function can't call CUDA") {
  const Machine machine;
  Peer peer;
  CHECK(peer.code(Op::call_in_stream) == CUDA_ERROR_NOT_PERMITTED);
}
