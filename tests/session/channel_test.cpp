// The daemon's end of a client's rings, when the client is busy with something else.
#include <catch2/catch.hpp>

#include <fcntl.h>
#include <unistd.h>

#include <map>
#include <vector>

#include "session/channel.hpp"

using namespace musterd;
namespace ipc = muster::ipc;
using ipc::CompletionType;

namespace {

/// A client that has not read its completions for so long that its ring is full.
struct Busy {
  Busy() {
    REQUIRE(channel->seal());
    channel->open();
    while (channel->backlog_bytes() == 0) REQUIRE(channel->complete(CompletionType::done, done));
  }
  void change(std::uint32_t seat, std::uint32_t epoch) {
    std::vector<std::byte> body;
    ipc::write(ipc::GroupChanged{{seat}, epoch, {0, 1, 2}, {}}, body);
    REQUIRE(channel->complete(CompletionType::group_changed, body));
  }
  /// Reads from here on. Returns the epochs that the client is told of, by seat.
  std::multimap<std::uint32_t, std::uint32_t> epochs() {
    std::multimap<std::uint32_t, std::uint32_t> told;
    do {
      REQUIRE(channel->flush());
      channel->wake();
      for (auto record = completions.next().value(); record; record = completions.next().value()) {
        if (record->type != static_cast<std::uint16_t>(CompletionType::group_changed)) continue;
        const auto change = ipc::read_group_changed(record->body).value();
        told.emplace(change.seat.value, change.epoch);
      }
    } while (channel->backlog_bytes() > 0);
    return told;
  }

  std::unique_ptr<Channel> channel = Channel::create().value();
  ipc::Fd memory{::dup(channel->descriptors()[0])};
  ipc::Mapping mapping = [this] {
    return ipc::Mapping::map(memory, ipc::channel_bytes, ipc::Access::read_write).value();
  }();
  ipc::ChannelHeader& header = *reinterpret_cast<ipc::ChannelHeader*>(mapping.data());
  ipc::RingConsumer completions{mapping.data() + ipc::channel_header_bytes + ipc::ring_bytes, header.completion_tail,
                                header.completion_head};
  std::vector<std::byte> done = std::vector<std::byte>(64);
};

}  // namespace

TEST_CASE("only the last change of each seat waits for a busy client") {
  Busy busy;
  constexpr std::uint32_t seats = 200;
  const auto change_all = [&](std::uint32_t epoch) {
    for (std::uint32_t seat = 1; seat <= seats; ++seat) busy.change(seat, epoch);
  };
  change_all(1);
  const auto once = busy.channel->backlog_bytes();
  for (std::uint32_t epoch = 2; epoch <= 50; ++epoch) change_all(epoch);
  CHECK(busy.channel->backlog_bytes() == once);
  const auto told = busy.epochs();
  CHECK(told.size() == seats);
  for (const auto& [seat, epoch] : told) CHECK(epoch == 50);
  // A later change can't replace news that the client has read.
  change_all(51);
  CHECK(busy.epochs().size() == seats);
}

TEST_CASE("rings that were never mapped are sealed before they are unmapped") {
  auto channel = Channel::create().value();
  const ipc::Fd memory(::dup(channel->descriptors()[0]));
  const auto seals = [&] { return ::fcntl(memory.get(), F_GET_SEALS); };
  CHECK((seals() & ipc::seal_future_write) == 0);
  channel.reset();
  CHECK((seals() & ipc::seal_future_write) != 0);
}

TEST_CASE("an impossible position is believed only up to one ring") {
  Busy busy;
  ipc::RingProducer submissions{busy.mapping.data() + ipc::channel_header_bytes, busy.header.submission_tail,
                                busy.header.submission_head};
  REQUIRE(submissions.try_write(1, busy.done).value());
  submissions.publish();
  CHECK(busy.channel->published() == submissions.position());
  REQUIRE(busy.channel->next().value());
  CHECK(busy.channel->published() == busy.channel->read());
  for (const std::uint64_t lie :
       {busy.channel->read() + ipc::ring_bytes + 8, std::uint64_t{1} << 60, std::uint64_t{0}}) {
    busy.header.submission_tail = lie;
    CHECK(busy.channel->published() == busy.channel->read() + ipc::ring_bytes);
  }
}

TEST_CASE("a client is told once that memory is wanted, however often it is wanted") {
  Busy busy;
  std::vector<std::byte> body;
  ipc::write(ipc::MemoryWanted{1}, body);
  REQUIRE(busy.channel->complete(CompletionType::memory_wanted, body));
  const auto once = busy.channel->backlog_bytes();
  for (int i = 0; i < 100; ++i) REQUIRE(busy.channel->complete(CompletionType::memory_wanted, body));
  CHECK(busy.channel->backlog_bytes() == once);
}
