// A call refuses arguments that can't work. None of them reaches the daemon, which would end the connection for some of
// them.
#include <catch2/catch.hpp>

#include <chrono>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "../daemon.hpp"

namespace {

using muster::Client;
using muster::Code;
using muster::DType;
using muster::Error;
using muster::Group;
using muster::OpOptions;
using muster::ReduceOp;
using muster::Ref;
using namespace muster::test;
using namespace std::chrono_literals;

constexpr auto no_op = static_cast<ReduceOp>(77);
constexpr auto no_dtype = static_cast<DType>(99);
constexpr OpOptions negative() { return {.timeout = -1s, .key = {}}; }

struct Fixture {
  Daemon daemon;
  Client client = daemon.connect();
  Group group = client.join("g", {.rank = 0, .world_size = 1}).value();
  Ref one = filled(client, 4, 1);
  std::vector<Ref> none;
  std::vector<Ref> three{one, one, one};
  std::vector<Ref> freed{Ref()};
};

struct Wrong {
  std::string named;  ///< what the message must contain
  std::function<Error(Fixture&)> call;
};

std::vector<Wrong> wrong_calls() {
  return {
      {"reduce op 77 is unknown", [](Fixture& f) { return f.client.allreduce_refs(f.three, no_op).error(); }},
      {"reduce op 77 is unknown", [](Fixture& f) { return f.client.reduce_scatter_refs(f.three, 3, no_op).error(); }},
      {"reduce op 77 is unknown", [](Fixture& f) { return f.group.allreduce(f.one, no_op).error(); }},
      {"reduce op 77 is unknown", [](Fixture& f) { return f.group.reduce(f.one, 0, no_op).error(); }},
      {"reduce op 77 is unknown", [](Fixture& f) { return f.group.scan(f.one, no_op).error(); }},
      {"reduce op 77 is unknown",
       [](Fixture& f) {
         return f.group.reduce_scatter({&f.one, 1}, no_op).error();
       }},
      {"got 0 refs for 0 ranks", [](Fixture& f) { return f.client.allreduce_refs(f.none).error(); }},
      {"got 0 refs for 0 ranks", [](Fixture& f) { return f.client.allgather_refs(f.none).error(); }},
      {"got 0 refs for 2 ranks", [](Fixture& f) { return f.client.all_to_all_refs(f.none, 2).error(); }},
      {"got 3 refs for 0 ranks", [](Fixture& f) { return f.client.reduce_scatter_refs(f.three, 0).error(); }},
      {"got 3 refs for 0 ranks", [](Fixture& f) { return f.client.all_to_all_refs(f.three, -1).error(); }},
      {"got 3 refs for 2 ranks", [](Fixture& f) { return f.client.reduce_scatter_refs(f.three, 2).error(); }},
      {"got 1 ref for 2 ranks",
       [](Fixture& f) {
         return f.client.all_to_all_refs({&f.one, 1}, 2).error();
       }},
      {"the ref was freed", [](Fixture& f) { return f.client.allreduce_refs(f.freed).error(); }},
      {"the ref was freed", [](Fixture& f) { return f.group.allreduce(Ref()).error(); }},
      {"root=3", [](Fixture& f) { return f.group.broadcast(f.one, 3).error(); }},
      {"the op's key has",
       [](Fixture& f) { return f.group.barrier({.timeout = {}, .key = std::string(5000, 'k')}).error(); }},
      {"dtype 99 is unknown", [](Fixture& f) { return f.client.allocate_raw(no_dtype, {2}).error(); }},
      {"dtype 99 is unknown", [](Fixture& f) { return f.client.allocate_hard(no_dtype, {2}).error(); }},
      {"dtype 99 is unknown", [](Fixture& f) { return f.client.put(no_dtype, {2}, nullptr).error(); }},
      {"the shape has 65 axes", [](Fixture& f) { return f.client.allocate<float>(muster::Shape(65, 1)).error(); }},
      {"negative size", [](Fixture& f) { return f.client.allocate<float>({-1}).error(); }},
      {"no memory on cuda:3; it has memory on cpu",
       [](Fixture& f) { return f.client.allocate<float>({1}, muster::Device::cuda(3)).error(); }},
      {"a timeout of -1 s", [](Fixture& f) { return f.client.allocate<float>({1}, -1s).error(); }},
      {"a timeout of -1 s",
       [](Fixture& f) { return f.client.allocate<float>({1}, muster::Device::cpu(), -1s).error(); }},
      {"a timeout of -1 s", [](Fixture& f) { return f.client.allreduce_refs(f.three, {}, negative()).error(); }},
      {"a timeout of -1 s", [](Fixture& f) { return f.group.barrier(negative()).error(); }},
      {"a timeout of -1 s", [](Fixture& f) { return f.group.barrier().value().wait(-1s).error(); }},
      {"a timeout of -1 s", [](Fixture& f) { return f.one.get(-1s).error(); }},
      {"a timeout of -5 s",
       [](Fixture& f) { return f.client.join("h", {.rank = 0, .world_size = 1, .timeout = -5s}).error(); }},
      {"a timeout of -86400 s",
       [](Fixture& f) {
         return f.client.join("h", {.rank = 0, .world_size = 1, .timeout = std::chrono::milliseconds::min()}).error();
       }},
      {"world_size 0", [](Fixture& f) { return f.client.join("h", {.rank = 0, .world_size = 0}).error(); }},
      {"on_loss 9",
       [](Fixture& f) {
         return f.client.join("h", {.rank = 0, .world_size = 1, .on_loss = static_cast<muster::OnLoss>(9)}).error();
       }},
      {"the group's name", [](Fixture& f) { return f.client.join("", {.rank = 0, .world_size = 1}).error(); }},
  };
}

TEST_CASE("an argument that can't work makes its call fail, and the connection goes on") {
  Fixture fixture;
  for (const auto& wrong : wrong_calls()) {
    INFO(wrong.named);
    const Error error = wrong.call(fixture);
    const bool is_lost = error.code() == Code::object_lost;
    CHECK((is_lost || error.code() == Code::invalid));
    CHECK_THAT(error.message(), Catch::Contains(wrong.named));
    auto sum = fixture.group.allreduce(fixture.one);
    REQUIRE(sum);
    REQUIRE(sum->ref(10s));
  }
  CHECK(fixture.client.connected());
}

}  // namespace
