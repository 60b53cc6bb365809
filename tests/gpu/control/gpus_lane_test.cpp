// The lane over several GPUs, with workers that say what the test wants them to say: each order of ends, failures,
// cancels, deadlines and late answers.
#include <catch2/catch.hpp>

#include <algorithm>

#include "gpus_world.hpp"

using namespace musterd;
using namespace musterd::gpu;
using namespace musterd::gpu::testing;

namespace {

using Over = std::vector<std::size_t>;
const Over both{0, 1};
using Ends = std::vector<std::string>;
const Ends done{"done"};

}  // namespace

TEST_CASE("the first job over GPUs waits until they have a communicator, and the next one does not") {
  GpusWorld world;
  world.start(1, both);
  CHECK(world.told(0).empty());
  world.tick();
  CHECK(world.told(0) == std::vector{wire::Body_Name});
  CHECK(world.told(1).empty());
  world.named(0, 1);
  const auto join = world.gpus[1]->port.take();
  REQUIRE(types(join) == std::vector{wire::Body_Join});
  CHECK(join[0].read().body_as_Join()->communicator() == 1);
  CHECK(join[0].read().body_as_Join()->ranks() == 2);
  CHECK(join[0].read().body_as_Join()->rank() == 1);
  CHECK(join[0].read().body_as_Join()->id()->size() == 128);
  world.joined(1, 1);
  CHECK(world.told(1).empty());
  world.joined(0, 1);
  CHECK(world.told(0) == std::vector{wire::Body_Join, wire::Body_Job});
  CHECK(world.told(1) == std::vector{wire::Body_Job});
  world.start(2, both);
  CHECK(world.told(0) == std::vector{wire::Body_Job});
  world.end_all(1, both);
  world.end_all(2, both);
  CHECK(world.ends[1] == done);
  CHECK(world.ends[2] == done);
  CHECK(world.quiet.empty());
  CHECK(world.lane->jobs() == 0);
  CHECK_FALSE(world.lane->next_deadline());
}

TEST_CASE("jobs that have waited for a communicator begin and fail some at a time, the first ones first") {
  GpusLaneSettings settings;
  settings.effort_max = 16;  // two jobs over two GPUs
  GpusWorld world(2, settings);
  for (JobId id = 1; id <= 7; ++id) world.start(id, both);
  world.tick();
  world.named(0, 1);
  world.joined(1, 1);
  world.forget_told();
  world.joined(0, 1);
  CHECK(world.told(0).size() == 2);
  REQUIRE(world.lane->next_deadline());
  CHECK(*world.lane->next_deadline() <= world.now);
  world.start(8, both);
  CHECK(world.told(0).empty());
  world.tick();
  const auto told = world.gpus[1]->port.take();
  REQUIRE(told.size() == 8);
  for (JobId id = 1; id <= 8; ++id) CHECK(told[id - 1].read().body_as_Job()->job() == id);
  world.forget_told();
  // The same holds for their end.
  world.broken(0, 1, "no luck");
  CHECK(world.told(0) == std::vector{wire::Body_Leave});
  world.lane->tick(world.now);
  CHECK(world.ends.size() == 2);
  CHECK(world.told(0).size() == 2);
  world.tick();
  CHECK(world.ends.size() == 8);
  CHECK(world.told(0) == std::vector(6, wire::Body_Cancel));
}

TEST_CASE("each GPU is told its own part only") {
  GpusWorld world;
  world.start(1, {0, 2});
  world.make(1, {0, 2});
  const auto told = world.gpus[2]->port.take();
  const auto& job = *told.back().read().body_as_Job();
  CHECK(job.job() == 1);
  CHECK(job.communicator() == 1);
  CHECK(job.rank() == 1);
  REQUIRE(job.exchanges()->size() == 1);
  const auto& exchange = *job.exchanges()->Get(0);
  CHECK(exchange.given().segment() == 12);
  CHECK(exchange.given().offset() == 128);
  CHECK(exchange.output() == 1);
  CHECK(exchange.count() == 4);
  REQUIRE(job.outputs()->size() == 2);
  CHECK(job.outputs()->Get(0)->segment() == 0);
  CHECK(job.outputs()->Get(1)->segment() == 12);
}

TEST_CASE("each GPU is told what it sends, what it receives, and what it folds of that") {
  GpusWorld world;
  Job job;
  job.id = 1;
  for (std::size_t gpu = 0; gpu < 3; ++gpu) {
    job.devices.push_back(world.gpus[gpu]->gpu.device());
    job.outputs.push_back({world.gpus[gpu]->memory.get(), 1000 * (gpu + 1)});
  }
  const Place of_first{world.gpus[0]->memory.get(), 128};
  // The first sends an input to both others, and the second what an earlier fold has left in its output.
  job.work.transfers = {
      {.source = {.given = of_first}, .output = 1, .from = 0, .to = 1, .offset = 8, .bytes = 64},
      {.source = {.given = of_first}, .output = 2, .from = 0, .to = 2, .bytes = 64},
      {.source = {.output = 1, .offset = 16}, .output = 2, .from = 1, .to = 2, .offset = 64, .bytes = 4, .group = 1}};
  job.work.last_inputs = {{.output = 1, .offset = 8}, {.output = 2}, {.output = 2, .offset = 64}};
  job.work.last_folds = {{.output = 1, .count = 1, .first_input = 0, .ranks = 1},
                         {.output = 2, .count = 1, .first_input = 1, .ranks = 1},
                         {.output = 2, .count = 2, .first_input = 1, .ranks = 2}};
  job.ended = [](const JobEnd&) {};
  world.lane->start(std::move(job), world.now + seconds(100));
  world.make(1, {0, 1, 2});
  const auto told = [&](std::size_t gpu) { return world.gpus[gpu]->port.take(); };
  using Transfers = std::vector<std::string>;
  const auto transfers_of = [](const wire::Job& part) {
    Transfers texts;
    for (const auto* each : *part.transfers())
      texts.push_back((each->sends() ? "to " : "from ") + std::to_string(each->peer()) + ": " +
                      std::to_string(each->bytes()) + " at " + std::to_string(each->place().segment()) + "+" +
                      std::to_string(each->place().offset()) + " in group " + std::to_string(each->group()));
    return texts;
  };
  const auto first = told(0);
  const auto& of_0 = *first.back().read().body_as_Job();
  CHECK(transfers_of(of_0) == Transfers{"to 1: 64 at 10+128 in group 0", "to 2: 64 at 10+128 in group 0"});
  CHECK(of_0.last_folds()->size() == 0);
  const auto second = told(1);
  const auto& of_1 = *second.back().read().body_as_Job();
  CHECK(transfers_of(of_1) == Transfers{"from 0: 64 at 11+2008 in group 0", "to 2: 4 at 11+2016 in group 1"});
  REQUIRE(of_1.last_folds()->size() == 1);
  CHECK(of_1.last_inputs()->Get(0)->offset() == 2008);
  const auto third = told(2);
  const auto& of_2 = *third.back().read().body_as_Job();
  CHECK(transfers_of(of_2) == Transfers{"from 0: 64 at 12+3000 in group 0", "from 1: 4 at 12+3064 in group 1"});
  // Folds that begin with the same input share it.
  REQUIRE(of_2.last_folds()->size() == 2);
  CHECK(of_2.last_folds()->Get(0)->first_input() == 0);
  CHECK(of_2.last_folds()->Get(1)->first_input() == 0);
  REQUIRE(of_2.last_inputs()->size() == 2);
  CHECK(of_2.last_inputs()->Get(1)->offset() == 3064);
}

TEST_CASE("a job is done when all of its parts are, in whatever order they end") {
  GpusWorld world;
  Over order{0, 1, 2};
  JobId job = 0;
  do {
    world.start(++job, {0, 1, 2});
    if (job == 1) world.make(1, {0, 1, 2});
    for (const auto gpu : order) {
      CHECK(world.ends[job].empty());
      world.ended(gpu, job);
      world.ended(gpu, job);  // once more changes nothing
    }
    CHECK(world.ends[job] == done);
    CHECK(world.quiet_at_end[job]);
  } while (std::next_permutation(order.begin(), order.end()));
}

TEST_CASE(
    "when one part fails, the others are cancelled, their communicator is given up, and the next job has another") {
  GpusWorld world;
  world.start(1, both);
  world.make(1, both);
  world.forget_told();
  world.ended(0, 1, "out of luck");
  CHECK(world.ends[1] == Ends{"out of luck"});
  CHECK_FALSE(world.quiet_at_end[1]);
  CHECK(world.told(0) == std::vector{wire::Body_Leave});
  const auto told = world.gpus[1]->port.take();
  REQUIRE(types(told) == std::vector{wire::Body_Leave, wire::Body_Cancel});
  CHECK(told[0].read().body_as_Leave()->abort());
  world.start(2, both);
  world.tick();
  CHECK(world.told(0).empty());  // until the other communicator has gone
  world.left(0, 1);
  world.left(1, 1);
  CHECK(world.quiet[1] == 0);
  world.ended(1, 1, "it was aborted");
  CHECK(world.quiet[1] == 1);
  CHECK(world.ends[1].size() == 1);
  world.make(2, both);
  world.end_all(2, both);
  CHECK(world.ends[2] == done);
}

TEST_CASE("all jobs of a communicator that breaks fail, once each, and those of others go on") {
  GpusWorld world;
  world.start(1, both);
  world.start(3, {1, 2});
  world.make(1, both);
  world.named(1, 2);
  world.joined(1, 2);
  world.joined(2, 2);
  world.start(2, both);
  world.broken(1, 1, "ncclRemoteError");
  world.broken(0, 1, "ncclRemoteError, too");
  world.tick();
  const Ends why{"cuda:0 and cuda:1 can't work together: cuda:1: ncclRemoteError"};
  CHECK(world.ends[1] == why);
  CHECK(world.ends[2] == why);
  CHECK(world.ends[3].empty());
  world.end_all(1, both);
  world.end_all(2, both);
  CHECK(world.quiet[1] == 1);
  CHECK(world.quiet[2] == 1);
  world.end_all(3, {1, 2});
  CHECK(world.ends[3] == done);
}

TEST_CASE("when a worker dies in the middle, the job fails once, and is quiet when the others have aborted") {
  GpusWorld world;
  world.start(1, both);
  world.make(1, both);
  world.forget_told();
  world.dies(1);
  world.tick();
  CHECK(world.ends[1] == Ends{"cuda:1 failed: its worker ended: it was ended by SIGKILL"});
  CHECK_FALSE(world.quiet_at_end[1]);
  CHECK(world.told(0) == std::vector{wire::Body_Leave, wire::Body_Cancel});
  world.left(0, 1);
  world.ended(0, 1, "it was aborted");
  CHECK(world.quiet[1] == 1);
  CHECK(world.lane->communicators().count() == 0);
  world.start(2, both);
  world.make(2, both);
  CHECK(world.gpus[1]->port.started == 2);
  // Nobody waits any more for the job that ended with the other worker.
  world.ready(1);
  world.tick(std::chrono::minutes(1));
  CHECK(world.gpus[1]->gpu.state() == Gpu::State::ready);
  world.end_all(2, both);
  CHECK(world.ends[2] == done);
}

TEST_CASE("when all workers die, the job is quiet at once") {
  GpusWorld world;
  world.start(1, both);
  world.make(1, both);
  world.dies(0);
  world.dies(1);
  world.tick();
  CHECK(world.ends[1].size() == 1);
  CHECK(world.lane->jobs() == 0);
  CHECK(world.lane->communicators().count() == 0);
}

TEST_CASE("a communicator that can't be made fails those who wait for it, with the worker's reason") {
  GpusWorld world;
  world.start(1, both);
  world.start(2, both);
  world.tick();
  SECTION("there is no NCCL") {
    world.broken(0, 1, "NCCL was not found");
    world.tick();
    CHECK(world.ends[1] == Ends{"cuda:0 and cuda:1 can't work together: cuda:0: NCCL was not found"});
  }
  SECTION("one can't join") {
    world.named(0, 1);
    world.joined(0, 1);
    world.broken(1, 1, "ncclSystemError");
    world.tick();
    CHECK(world.ends[1] == Ends{"cuda:0 and cuda:1 can't work together: cuda:1: ncclSystemError"});
  }
  SECTION("a worker dies while it joins") {
    world.named(0, 1);
    world.dies(0);
    world.tick();
    CHECK(world.ends[1] == Ends{"cuda:0 failed: its worker ended: it was ended by SIGKILL"});
  }
  CHECK(world.ends[2] == world.ends[1]);
  CHECK(world.quiet_at_end[1]);
  CHECK(world.lane->jobs() == 0);
}

TEST_CASE("a worker that can't be had fails the job") {
  GpusWorld world;
  world.dies(0);
  world.gpus[0]->port.refuses = true;
  world.start(1, both);
  world.tick();
  CHECK(world.ends[1] == Ends{"no process"});
}

TEST_CASE("a communicator that does not come in time is given up, and names who did not answer") {
  GpusWorld world;
  world.start(1, both);
  world.tick();
  world.named(0, 1);
  world.joined(0, 1);
  world.tick(seconds(29));
  CHECK(world.ends[1].empty());
  world.tick(seconds(1));
  CHECK(world.ends[1] == Ends{"cuda:0 and cuda:1 were not joined by NCCL within 30 s: cuda:1 did not answer"});
  // It may never answer again, so another worker takes its place.
  CHECK(world.gpus[1]->port.killed == 1);
  world.left(0, 1);
  world.tick(seconds(5));
  CHECK(world.gpus[0]->port.killed == 0);
  // The next job waits until that worker's process has gone.
  world.start(2, both);
  world.tick();
  CHECK(world.ends[2].empty());
  world.dies(1);
  world.make(2, both);
  world.end_all(2, both);
  CHECK(world.ends[2] == done);
}

TEST_CASE("a communicator in the making that nobody waits for any more has less time") {
  GpusWorld world;
  world.start(1, both);
  world.tick();
  world.lane->cancel(1);
  CHECK(world.ends[1].empty());
  world.tick();
  CHECK(world.ends[1] == Ends{"it was cancelled before it began"});
  CHECK(world.quiet_at_end[1]);
  SECTION("it comes, and serves the next job") {
    world.make(1, both);
    world.start(2, both);
    world.end_all(2, both);
    CHECK(world.ends[2] == done);
  }
  SECTION("it does not come") {
    world.tick(seconds(9));
    CHECK(world.told(0) == std::vector{wire::Body_Name});
    world.tick(seconds(1));
    CHECK(world.told(0) == std::vector{wire::Body_Leave});
    CHECK(world.gpus[0]->port.killed == 0);  // it may only be slow
    for (const auto gpu : both) world.left(gpu, 1);
    world.start(2, both);
    world.tick();
    world.named(0, 2);
    world.lane->cancel(2);
    world.tick();
    world.tick(seconds(10));
    CHECK(world.gpus[0]->port.killed == 1);
    CHECK(world.gpus[1]->port.killed == 1);
  }
}

TEST_CASE("GPUs that can't be joined again and again are left alone for a while, which grows") {
  GpusLaneSettings settings;
  settings.communicators.failed = {.tries = 2, .pause_min = seconds(1), .pause_max = seconds(3)};
  GpusWorld world(3, settings);
  JobId job = 0;
  CommunicatorId made = 0;
  const auto fails = [&] {
    world.start(++job, both);
    world.tick();
    world.broken(0, ++made, "out of luck");
    for (const auto gpu : both) world.left(gpu, made);
    world.tick();
    REQUIRE(world.ends[job].size() == 1);
    return world.ends[job].front();
  };
  const std::string why = "cuda:0 and cuda:1 can't work together: cuda:0: out of luck";
  CHECK(fails() == why);
  int failures = 1;
  for (const int pause : {1, 2, 3, 3}) {
    CHECK(fails() == why + " (" + std::to_string(++failures) + " failures in a row)");
    world.forget_told();
    const auto fails_at_once = [&] {
      world.start(++job, both);
      CHECK(world.ends[job].empty());  // not within start()
      world.tick();
      CHECK(world.ends[job] == world.ends[job - 1]);
      CHECK(world.told(0).empty());
      CHECK(world.quiet_at_end[job]);
    };
    fails_at_once();
    world.tick(seconds(pause) - milliseconds(1));
    fails_at_once();
    // Others are not concerned.
    const Over others{1, 2};
    const JobId other = ++job;
    world.start(other, others);
    world.make(++made, others);
    world.end_all(other, others);
    CHECK(world.ends[other] == done);
    world.broken(1, made, "the end");
    for (const auto gpu : others) world.left(gpu, made);
    world.tick(milliseconds(1));
  }
  world.start(++job, both);
  world.make(++made, both);
  world.end_all(job, both);
  CHECK(world.ends[job] == done);
  // It has begun anew.
  world.broken(0, made, "out of luck");
  for (const auto gpu : both) world.left(gpu, made);
  CHECK(fails() == why);
  CHECK_FALSE(world.lane->next_deadline());
}

TEST_CASE("a job that was cancelled may end by itself, if it does not, its communicator is given up") {
  GpusWorld world;
  world.start(1, both);
  world.make(1, both);
  world.start(2, both);
  world.forget_told();
  world.lane->cancel(1);
  world.tick();
  CHECK(world.told(0) == std::vector{wire::Body_Cancel});
  CHECK(world.ends[1].empty());
  SECTION("it ends in time") {
    world.tick(milliseconds(900));
    world.end_all(1, both);
    CHECK(world.ends[1] == done);
    world.tick(seconds(10));
    CHECK(world.told(0).empty());
    world.end_all(2, both);
    CHECK(world.ends[2] == done);
  }
  SECTION("it does not") {
    world.tick(seconds(1));
    CHECK(world.ends[1].size() == 1);
    CHECK(world.ends[2] == world.ends[1]);
    CHECK(world.told(0) == std::vector{wire::Body_Leave, wire::Body_Cancel});
    SECTION("the workers abort") {
      for (const auto gpu : both) {
        world.left(gpu, 1);
        world.ended(gpu, 1, "aborted");
        world.ended(gpu, 2, "aborted");
      }
      CHECK(world.quiet[1] == 1);
      CHECK(world.quiet[2] == 1);
      world.tick(seconds(60));
      CHECK(world.gpus[0]->port.killed == 0);
    }
    SECTION("one hangs in it") {
      world.left(0, 1);
      world.ended(0, 1, "aborted");
      world.ended(0, 2, "aborted");
      world.tick(seconds(5));
      CHECK(world.gpus[0]->port.killed == 0);
      CHECK(world.gpus[1]->port.killed == 1);
      CHECK(world.quiet[1] == 0);
      world.dies(1);
      world.tick();
      CHECK(world.quiet[1] == 1);
      CHECK(world.quiet[2] == 1);
    }
  }
  CHECK(world.lane->jobs() == 0);
}

TEST_CASE("what comes late, of a communicator that is gone, harms no other") {
  GpusWorld world;
  world.start(1, both);
  world.tick();
  world.named(1, 1);  // not the one that was asked
  CHECK(world.told(0) == std::vector{wire::Body_Name});
  world.broken(0, 1, "no luck");
  world.left(0, 1);
  world.left(1, 1);
  world.start(2, both);
  world.tick();
  world.forget_told();
  world.named(0, 1);
  world.joined(0, 1);
  world.joined(1, 1);
  world.broken(1, 1, "late");
  world.left(0, 1);
  world.left(1, 99);
  CHECK(world.told(1).empty());
  world.named(0, 2);
  world.joined(0, 2);
  world.joined(0, 2);
  world.joined(2, 2);  // no member
  CHECK(world.told(1) == std::vector{wire::Body_Join});
  world.joined(1, 2);
  world.ended(0, 1);
  world.end_all(2, both);
  CHECK(world.ends[2] == done);
  world.ended(0, 2);
  CHECK(world.ends[2] == done);
}

TEST_CASE("communicators that no job uses go, the one that was used last stays longest") {
  GpusLaneSettings settings;
  settings.communicators.idle_max = 1;
  GpusWorld world(3, settings);
  const std::vector<Over> sets{{0, 1}, {1, 2}, {0, 2}};
  for (JobId id = 1; id <= 3; ++id) {
    world.start(id, sets[id - 1]);
    world.make(id, sets[id - 1]);
  }
  world.forget_told();
  CHECK(world.lane->communicators().count() == 3);
  world.end_all(2, sets[1]);
  world.end_all(1, sets[0]);
  CHECK(world.told(0) == std::vector{wire::Body_Leave});
  const auto told = world.gpus[1]->port.take();
  REQUIRE(types(told) == std::vector{wire::Body_Leave});
  CHECK(told[0].read().body_as_Leave()->communicator() == 1);
  CHECK_FALSE(told[0].read().body_as_Leave()->abort());
  CHECK(world.told(2).empty());
  world.left(0, 1);
  world.left(1, 1);
  CHECK(world.lane->communicators().count() == 2);
  world.start(4, sets[1]);
  CHECK(world.told(1) == std::vector{wire::Body_Job});
}

TEST_CASE("when there are as many communicators as there may be, a job that needs another one waits") {
  GpusLaneSettings settings;
  settings.communicators.made_max = 1;
  settings.communicators.idle_max = 0;
  GpusWorld world(3, settings);
  world.start(1, both);
  world.make(1, both);
  world.start(2, {1, 2});
  world.tick(seconds(100));
  CHECK(world.told(2).empty());
  world.end_all(1, both);
  CHECK(world.told(1).back() == wire::Body_Leave);
  for (const auto gpu : both) world.left(gpu, 1);
  CHECK(world.lane->communicators().count() == 1);
  world.make(2, {1, 2});
  CHECK(world.told(2) == std::vector{wire::Body_Join, wire::Body_Job});
  world.end_all(2, {1, 2});
  CHECK(world.ends[2] == done);
}

TEST_CASE("each user has communicators of their own, so what one cancels costs the others no error") {
  GpusWorld world;
  world.start(1, both, 1000);
  world.make(1, both);
  world.start(2, both, 1001);
  world.make(2, both);
  CHECK(world.lane->communicators().count() == 2);
  world.start(3, both, 1000);
  CHECK(world.lane->communicators().count() == 2);
  world.lane->cancel(1);
  world.tick();
  world.tick(seconds(1));
  CHECK(world.ends[1].size() == 1);
  CHECK(world.ends[3] == world.ends[1]);
  CHECK(world.ends[2].empty());
  world.end_all(2, both);
  CHECK(world.ends[2] == done);
  for (const auto gpu : both) world.left(gpu, 1);
  CHECK(world.lane->communicators().count() == 1);
}

TEST_CASE("one user's failures to join GPUs delay no other user") {
  GpusLaneSettings settings;
  settings.communicators.failed.tries = 1;
  GpusWorld world(2, settings);
  world.start(1, both, 1000);
  world.tick();
  world.broken(0, 1, "out of luck");
  for (const auto gpu : both) world.left(gpu, 1);
  world.tick();
  world.start(2, both, 1000);
  world.start(3, both, 1001);
  world.make(2, both);
  CHECK(world.ends[2] == world.ends[1]);
  world.end_all(3, both);
  CHECK(world.ends[3] == done);
}

TEST_CASE("ops of one user wait for so many communicators, and others' ops are not refused for that") {
  GpusLaneSettings settings;
  settings.communicators.made_max = 2;
  settings.communicators.waiting_max = 1;
  GpusWorld world(3, settings);
  world.start(1, both, 1000);
  world.make(1, both);
  world.start(2, {1, 2}, 1000);
  world.start(3, {0, 2}, 1000);
  world.start(4, {1, 2}, 1000);  // over the same GPUs as one that waits
  world.start(5, both, 1001);
  world.tick();
  REQUIRE(world.ends[3].size() == 1);
  CHECK(world.ends[3][0] == "ops of this user wait to be run over 1 sets of GPUs at once");
  CHECK(world.quiet_at_end[3]);
  world.make(3, both);
  world.end_all(5, both);
  CHECK(world.ends[5] == done);
  world.end_all(1, both);
  for (const auto gpu : both) world.left(gpu, 1);
  world.make(2, {1, 2});
  world.end_all(2, {1, 2});
  world.end_all(4, {1, 2});
  CHECK(world.ends[2] == done);
  CHECK(world.ends[4] == done);
}

TEST_CASE("a join that a worker could not even be asked for is not held against NCCL") {
  GpusLaneSettings settings;
  settings.communicators.failed.tries = 1;
  GpusWorld world(2, settings);
  world.dies(1);
  world.gpus[1]->port.refuses = true;
  world.start(1, both);
  world.tick();
  world.named(0, 1);
  world.tick();
  REQUIRE(world.ends[1].size() == 1);
  CHECK(world.ends[1][0].find("no process") != std::string::npos);
  CHECK(world.ends[1][0].find("in a row") == std::string::npos);
  world.gpus[1]->port.refuses = false;
  world.left(0, 1);
  world.tick(seconds(100));
  world.start(2, both);
  world.tick();
  world.named(0, 2);
  world.ready(1);
  for (const auto gpu : both) world.joined(gpu, 2);
  world.end_all(2, both);
  CHECK(world.ends[2] == done);
}

TEST_CASE("one user leaves room for the communicators of others") {
  GpusLaneSettings settings;
  settings.communicators.made_max = 4;
  settings.communicators.idle_max = 2;
  GpusWorld world(3, settings);
  const std::vector<Over> sets{{0, 1}, {1, 2}, {0, 2}};
  for (JobId id = 1; id <= 3; ++id) world.start(id, sets[id - 1], 1000);
  world.tick();
  for (JobId id = 1; id <= 2; ++id) world.make(id, sets[id - 1]);
  world.forget_told();
  world.tick(seconds(100));
  CHECK(world.told(2).empty());  // the third one waits
  world.start(4, both, 1001);
  world.make(4, both);
  world.end_all(4, both);
  CHECK(world.ends[4] == done);
  // The user gets the third one in place of another of the same user, although the other user has an idle one, too.
  world.forget_told();
  world.end_all(1, sets[0]);
  const auto told = world.gpus[0]->port.take();
  REQUIRE(types(told) == std::vector{wire::Body_Leave});
  CHECK(told[0].read().body_as_Leave()->communicator() == 1);
  for (const auto gpu : both) world.left(gpu, 1);
  world.make(3, sets[2]);
  world.forget_told();
  world.end_all(2, sets[1]);
  world.end_all(3, sets[2]);
  CHECK(world.ends[3] == done);
  // Of those that are idle, the one goes that is of the user who has most of them.
  CHECK(world.lane->communicators().count() == 3);
  const auto left = world.gpus[1]->port.take();
  REQUIRE(types(left) == std::vector{wire::Body_Leave});
  CHECK(left[0].read().body_as_Leave()->communicator() == 2);
}

TEST_CASE("a communicator that nobody uses gives its place to one that is wanted") {
  GpusLaneSettings settings;
  settings.communicators.made_max = 1;
  GpusWorld world(3, settings);
  world.start(1, both);
  world.make(1, both);
  world.end_all(1, both);
  CHECK(world.lane->communicators().count() == 1);
  world.forget_told();
  world.start(2, {1, 2});
  CHECK(world.told(0) == std::vector{wire::Body_Leave});
  for (const auto gpu : both) world.left(gpu, 1);
  world.make(2, {1, 2});
  world.end_all(2, {1, 2});
  CHECK(world.ends[2] == done);
}

TEST_CASE("a job for which a worker is too busy fails alone") {
  GpusWorld world;
  world.start(1, both);
  world.make(1, both);
  world.forget_told();
  world.gpus[1]->port.waiting[0] = std::size_t{1} << 30;
  world.start(2, both);
  world.tick();
  REQUIRE(world.ends[2].size() == 1);
  CHECK(world.ends[2][0].find("cuda:1 is too busy") != std::string::npos);
  CHECK(world.quiet_at_end[2]);
  CHECK(world.told(0).empty());
  world.end_all(1, both);
  CHECK(world.ends[1] == done);
}

TEST_CASE("a communicator that is not left in order is aborted, and then its workers are ended") {
  GpusLaneSettings settings;
  settings.communicators.idle_max = 0;
  GpusWorld world(2, settings);
  world.start(1, both);
  world.make(1, both);
  world.end_all(1, both);
  world.forget_told();
  world.tick(seconds(0));
  world.tick(seconds(5));
  const auto told = world.gpus[0]->port.take();
  REQUIRE(types(told) == std::vector{wire::Body_Leave});
  CHECK(told[0].read().body_as_Leave()->abort());
  world.left(0, 1);
  world.tick(seconds(5));
  CHECK(world.gpus[0]->port.killed == 0);
  CHECK(world.gpus[1]->port.killed == 1);
  world.dies(1);
  CHECK(world.lane->communicators().count() == 0);
}

TEST_CASE("all workers hear of communicators and jobs in the same order") {
  GpusWorld world;
  world.start(1, {0, 1, 2});
  world.start(2, both);
  world.start(3, {0, 1, 2});
  world.tick();
  world.named(0, 2);
  world.joined(0, 2);
  world.named(0, 1);
  world.start(4, both);
  for (const auto gpu : {1, 2, 0}) world.joined(static_cast<std::size_t>(gpu), 1);
  world.joined(1, 2);
  world.start(5, {0, 1, 2});
  const auto heard = [&](std::size_t gpu) {
    std::vector<std::pair<wire::Body, std::uint64_t>> order;
    for (const auto& each : world.gpus[gpu]->port.take()) {
      if (const auto* join = each.read().body_as_Join()) order.emplace_back(wire::Body_Join, join->communicator());
      if (const auto* job = each.read().body_as_Job()) order.emplace_back(wire::Body_Job, job->job());
    }
    return order;
  };
  const auto first = heard(0);
  CHECK(first.size() == 7);
  CHECK(heard(1) == first);
}

TEST_CASE("the end of a job may start the next one from within") {
  GpusWorld world;
  world.start(1, both);
  world.make(1, both);
  Job restless;
  restless.id = 2;
  restless.devices = {muster::Device::cuda(0), muster::Device::cuda(1)};
  restless.ended = [&](const JobEnd&) { world.start(3, both); };
  restless.quiet = [&] { world.start(4, both); };
  world.lane->start(std::move(restless), world.now + seconds(1));
  world.broken(0, 1, "no luck");
  world.tick();
  CHECK(world.lane->jobs() == 3);
  world.end_all(2, both);
  CHECK(world.lane->jobs() == 3);
  for (const auto gpu : both) world.left(gpu, 1);
  world.end_all(1, both);
  world.make(2, both);
  world.end_all(3, both);
  world.end_all(4, both);
  CHECK(world.ends[3] == done);
  CHECK(world.ends[4] == done);
}
