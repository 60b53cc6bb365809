// Plans of ops whose ranks' arrays lie on several GPUs: where results are made, what is folded where, what is
// exchanged and transferred, and what is refused.
#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>

#include "collective/agreement.hpp"
#include "collective/exchange.hpp"
#include "collective/plan.hpp"
#include "over_devices.hpp"
#include "reference.hpp"

using namespace musterd;
using namespace musterd::testing;
using muster::Code;
using muster::Device;
using muster::DType;
using muster::ReduceOp;
using muster::ipc::Kind;
using muster::ipc::Layout;

namespace {

using Leaves = std::vector<Tensor>;

Tensor numbers(DType dtype, std::vector<std::complex<double>> values) {
  return {dtype, {static_cast<std::int64_t>(values.size())}, std::move(values)};
}
Tensor floats_of(double value) { return numbers(DType::float32, {value, value + 1}); }

/// An op, and the device on which each of its ranks has its arrays.
struct OverDevices {
  OverDevices(Kind kind, std::vector<int> devices, ReduceOp reduce_op = ReduceOp::sum) {
    op.name = "test";
    op.world_size = static_cast<int>(devices.size());
    for (const int device : devices) {
      op.contributions.push_back(contribution(static_cast<int>(homes.size()), kind, static_cast<Ticket>(homes.size())));
      op.contributions.back().op = reduce_op;
      homes.push_back(Device::cuda(static_cast<std::uint8_t>(device)));
    }
  }
  void give(std::size_t rank, const Leaves& leaves) { give(rank, leaves, homes[rank]); }
  void give(std::size_t rank, const Leaves& leaves, Device device) {
    std::vector<Array> arrays;
    for (const auto& tensor : leaves) arrays.push_back(encode(tensor));
    op.contributions[rank].inputs.push_back(bundle(std::move(arrays), "nesting", {}, device));
  }
  void give_floats() {
    for (std::size_t rank = 0; rank < homes.size(); ++rank) give(rank, {floats_of(static_cast<double>(rank))});
  }
  [[nodiscard]] muster::Error refused() const {
    const auto plan = make_plan(op);
    REQUIRE_FALSE(plan);
    const auto measured = measure_plan(op);
    if (!measured) CHECK(measured.error().message() == plan.error().message());
    return plan.error();
  }
  Op op;
  std::vector<Device> homes;
};

/// A plan's work, done.
struct Done {
  explicit Done(const OverDevices& over, Takers takers = Takers::ranks)
      : plan(make_plan(over.op, Sharing::alias, takers).value()) {
    Job job;
    job.work = plan.work;
    job.devices = plan.devices;
    for (const auto& output : plan.outputs) {
      auto& bytes = storage.emplace_back(output.bytes + 1, std::byte{0xa5});
      job.outputs.push_back(borrowed.place(bytes));
      device_of[job.outputs.back().memory] = output.device;
    }
    for (std::size_t rank = 0; rank < over.homes.size(); ++rank)
      for (const auto& input : over.op.contributions[rank].inputs)
        for (const auto* memory : input.memories)
          if (memory) device_of[memory] = over.homes[rank];
    check_places(job);
    run_over_devices(job);
  }
  /// Nothing reads or writes memory of another device.
  void check_places(const Job& job) const {
    for (const auto& fold : job.work.folds)
      for (std::size_t i = 0; i < fold.ranks; ++i)
        CHECK(device_of.at(job.work.inputs[fold.first_input + i].memory) == plan.outputs[fold.output].device);
    for (const auto& exchange : job.work.exchanges)
      for (std::size_t device = 0; device < job.devices.size(); ++device) {
        const auto& part = job.work.parts[exchange.first_part + device];
        if (part.given.memory) CHECK(device_of.at(part.given.memory) == job.devices[device]);
        const bool uses_output = !part.given.memory || exchange.root == Exchange::everyone || exchange.root == device;
        if (uses_output) CHECK(plan.outputs[part.output].device == job.devices[device]);
      }
    for (const auto& copy : job.work.copies)
      CHECK(device_of.at(copy.source.memory) == plan.outputs[copy.output].device);
    for (const auto& transfer : job.work.transfers) {
      CHECK(transfer.from != transfer.to);
      CHECK(lies_on(transfer.source) == job.devices[transfer.from]);
      CHECK(plan.outputs[transfer.output].device == job.devices[transfer.to]);
    }
    for (const auto& fold : job.work.last_folds) {
      for (std::size_t i = 0; i < fold.ranks; ++i)
        CHECK(lies_on(job.work.last_inputs[fold.first_input + i]) == plan.outputs[fold.output].device);
      for (std::size_t i = 0; i < fold.prefixes; ++i)
        CHECK(plan.outputs[fold.output + i].device == plan.outputs[fold.output].device);
    }
  }
  [[nodiscard]] Device lies_on(const Source& source) const {
    return source.given.memory ? device_of.at(source.given.memory) : plan.outputs[source.output].device;
  }
  [[nodiscard]] Leaves given_to(std::size_t rank) const {
    REQUIRE(plan.given_to(rank).size() == 1);
    const auto& given = plan.given_to(rank)[0];
    REQUIRE(given.is_output);
    REQUIRE_FALSE(plan.outputs[given.index].is_scratch);
    const auto& manifest = plan.outputs[given.index].manifest;
    Leaves leaves;
    for (const auto& leaf : manifest.leaves)
      leaves.push_back(decode(leaf.dtype, manifest.shape(leaf), storage[given.index].data() + leaf.offset));
    return leaves;
  }
  [[nodiscard]] Device device_given(std::size_t rank) const {
    return plan.outputs[plan.given_to(rank)[0].index].device;
  }
  Plan plan;
  std::deque<std::vector<std::byte>> storage;
  Borrowed borrowed;
  std::map<const SegmentMemory*, Device> device_of;
};

bool nearly_equal(const Tensor& a, const Tensor& b) {
  if (a.dtype != b.dtype || a.shape != b.shape) return false;
  const double error = a.dtype == DType::float16 ? 1e-2 : 0;
  return std::equal(a.values.begin(), a.values.end(), b.values.begin(),
                    [&](auto x, auto y) { return std::abs(x - y) <= error; });
}

}  // namespace

TEST_CASE("an allreduce over GPUs makes one result on each, and each rank gets the one that is there") {
  OverDevices over(Kind::allreduce, {2, 0, 2, 0, 1});
  over.give_floats();
  const Done done(over);
  CHECK(done.plan.devices == Devices{Device::cuda(0), Device::cuda(1), Device::cuda(2)});
  CHECK(done.plan.outputs.size() == 3);
  CHECK(done.plan.work.folds.size() == 2);
  REQUIRE(done.plan.work.exchanges.size() == 1);
  for (std::size_t rank = 0; rank < 5; ++rank) {
    CHECK(done.given_to(rank) == Leaves{numbers(DType::float32, {10, 15})});
    CHECK(done.device_given(rank) == over.homes[rank]);
  }
}

TEST_CASE("a GPU with one rank folds nothing: what the rank gave is exchanged") {
  OverDevices over(Kind::allreduce, {0, 1});
  over.give_floats();
  const Done done(over);
  CHECK(done.plan.work.folds.empty());
  CHECK(done.plan.work.parts[0].given == over.op.contributions[0].inputs[0].place(0));
  CHECK(done.plan.work.parts[1].given == over.op.contributions[1].inputs[0].place(0));
  CHECK(done.given_to(0) == Leaves{numbers(DType::float32, {1, 3})});
}

TEST_CASE("a reduce over GPUs gives the root its result, and others only scratch memory where they fold") {
  OverDevices over(Kind::reduce, {0, 1, 1, 2});
  for (auto& each : over.op.contributions) each.root = 3;
  over.give_floats();
  const Done done(over);
  REQUIRE(done.plan.outputs.size() == 2);
  CHECK(done.plan.outputs[0].device == Device::cuda(2));
  CHECK(done.plan.outputs[1].is_scratch);
  CHECK(done.plan.outputs[1].device == Device::cuda(1));
  CHECK(done.plan.given_to(0).empty());
  CHECK(done.given_to(3) == Leaves{numbers(DType::float32, {6, 10})});
}

TEST_CASE("a reduce whose root gave nothing makes nothing") {
  OverDevices over(Kind::reduce, {0, 1});
  for (auto& each : over.op.contributions) each.root = 2;
  over.op.world_size = 3;
  over.give_floats();
  const auto plan = make_plan(over.op).value();
  CHECK(plan.outputs.empty());
  CHECK(plan.work_bytes == 0);
}

TEST_CASE("a reduce_scatter over GPUs makes each rank's part on its GPU") {
  OverDevices over(Kind::reduce_scatter, {1, 0, 1});
  for (std::size_t rank = 0; rank < 3; ++rank)
    for (int part = 0; part < 3; ++part) over.give(rank, {floats_of(static_cast<double>(rank) + 10.0 * part)});
  const Done done(over);
  for (std::size_t rank = 0; rank < 3; ++rank) {
    const double sum = 3 + 30.0 * static_cast<double>(rank);
    CHECK(done.given_to(rank) == Leaves{numbers(DType::float32, {sum, sum + 3})});
    CHECK(done.device_given(rank) == over.homes[rank]);
  }
}

TEST_CASE("a mean over GPUs divides by the number of ranks, not of GPUs") {
  OverDevices over(Kind::allreduce, {0, 0, 0, 1}, ReduceOp::mean);
  const auto dtype = GENERATE(DType::float32, DType::int32, DType::float16, DType::complex64);
  for (std::size_t rank = 0; rank < 4; ++rank) over.give(rank, {numbers(dtype, {static_cast<double>(rank)})});
  const Done done(over);
  for (std::size_t rank = 0; rank < 4; ++rank)
    CHECK(done.given_to(rank) == Leaves{numbers(*muster::result_dtype(dtype, ReduceOp::mean), {1.5})});
}

TEST_CASE("a mean of float16 is right where the sum would be too large") {
  OverDevices over(Kind::allreduce, {0, 0, 1, 1}, ReduceOp::mean);
  for (std::size_t rank = 0; rank < 4; ++rank) over.give(rank, {numbers(DType::float16, {60000.0})});
  CHECK(Done(over).given_to(0) == Leaves{numbers(DType::float16, {60000.0})});
}

TEST_CASE("every dtype and op is reduced as on one device, whether NCCL has it or not") {
  std::mt19937 random(7);
  const auto below = [&](int end) { return std::uniform_int_distribution(0, end - 1)(random); };
  for (std::size_t d = 0; d < muster::dtype_count; ++d)
    for (std::size_t o = 0; o < muster::reduce_op_count; ++o) {
      const auto dtype = static_cast<DType>(d);
      const auto reduce_op = static_cast<ReduceOp>(o);
      if (!muster::result_dtype(dtype, reduce_op)) continue;
      INFO(name(dtype) << " " << name(reduce_op));
      const auto kind = std::array{Kind::allreduce, Kind::reduce, Kind::reduce_scatter}[random() % 3];
      std::vector<int> devices{0, 1};
      while (below(4) > 0 && devices.size() < 7) devices.push_back(below(3));
      std::shuffle(devices.begin(), devices.end(), random);
      OverDevices over(kind, devices, reduce_op);
      const std::size_t columns = kind == Kind::reduce_scatter ? devices.size() : 1;
      std::vector<std::vector<Tensor>> given(columns);
      for (std::size_t rank = 0; rank < devices.size(); ++rank)
        for (auto& column : given) {
          Tensor tensor{dtype, {3}, {}};
          for (int i = 0; i < 3; ++i)
            tensor.values.emplace_back(dtype == DType::bool_ ? below(2)
                                                             : 1 + below(reduce_op == ReduceOp::prod ? 2 : 4));
          column.push_back(tensor);
          over.give(rank, {numbers(dtype, {}), tensor});
        }
      const Done done(over);
      const bool is_exchanged = exchanged_as(dtype, reduce_op).has_value();
      CHECK(done.plan.work.exchanges.empty() != is_exchanged);
      CHECK(done.plan.work.transfers.empty() == is_exchanged);
      for (std::size_t rank = 0; rank < devices.size(); ++rank) {
        if (kind == Kind::reduce && rank != 0) {
          CHECK(done.plan.given_to(rank).empty());
          continue;
        }
        const auto result = done.given_to(rank);
        REQUIRE(result.size() == 2);
        CHECK(result[0].values.empty());
        CHECK(nearly_equal(result[1], fold(reduce_op, given[columns == 1 ? 0 : rank])));
        CHECK(done.device_given(rank) == over.homes[rank]);
      }
    }
}

TEST_CASE("NCCL lacks what it lacks") {
  CHECK_FALSE(exchanged_as(DType::int16, ReduceOp::sum));
  CHECK_FALSE(exchanged_as(DType::uint16, ReduceOp::max));
  CHECK_FALSE(exchanged_as(DType::int32, ReduceOp::bxor));
  CHECK_FALSE(exchanged_as(DType::bool_, ReduceOp::bxor));
  CHECK_FALSE(exchanged_as(DType::complex64, ReduceOp::prod));
  CHECK(exchanged_as(DType::int16, ReduceOp::mean)->dtype == DType::float64);
  CHECK(exchanged_as(DType::float32, ReduceOp::land)->op == ReduceOp::min);
  CHECK(exchanged_as(DType::complex128, ReduceOp::sum)->each == 2);
}

TEST_CASE("a scan over GPUs gives each rank the fold of all up to it, on its GPU") {
  std::mt19937 random(5);
  const auto dtype = GENERATE(DType::float32, DType::bool_, DType::int16);
  const auto reduce_op = GENERATE(ReduceOp::sum, ReduceOp::mean, ReduceOp::max);
  for (int round = 0; round < 20; ++round) {
    std::vector<int> devices{0, 1};
    while (random() % 8 != 0 && devices.size() < 9) devices.push_back(static_cast<int>(random() % 3));
    std::shuffle(devices.begin(), devices.end(), random);
    OverDevices over(Kind::scan, devices, reduce_op);
    std::vector<Tensor> given;
    for (std::size_t rank = 0; rank < devices.size(); ++rank) {
      given.push_back(numbers(dtype, {static_cast<double>(random() % 2), 1}));
      over.give(rank, {given.back(), numbers(dtype, {})});
    }
    const Done done(over);
    for (std::size_t rank = 0; rank < devices.size(); ++rank) {
      if (!done.plan.given_to(rank)[0].is_output) {
        CHECK(rank == 0);
        CHECK(done.plan.given_to(0)[0] == Given{false, 0, 0});
        continue;
      }
      const std::vector<Tensor> some(given.begin(), given.begin() + static_cast<std::ptrdiff_t>(rank) + 1);
      CHECK(done.given_to(rank)[0] == fold(reduce_op, some));
      CHECK(done.device_given(rank) == over.homes[rank]);
    }
  }
}

TEST_CASE("ranks of one GPU that follow each other take one fold of a scan, and share what is read") {
  OverDevices over(Kind::scan, {0, 0, 1, 1, 1, 0});
  over.give_floats();
  const Done done(over);
  const auto& work = done.plan.work;
  CHECK(work.folds.empty());
  REQUIRE(work.last_folds.size() == 3);
  CHECK(work.last_folds[0].prefixes == 1);  // rank 0 gets what it gave
  CHECK(work.last_folds[1].prefixes == 1);
  CHECK(work.last_folds[2].prefixes == 3);
  CHECK(work.last_inputs.size() == 6 + 5);
  CHECK(work.transfers.size() == 3 + 2);
}

TEST_CASE("an allgather that stacks arrays of several GPUs makes the whole on each") {
  OverDevices over(Kind::allgather, {0, 1, 3, 1});
  for (auto& each : over.op.contributions) each.layout = Layout::stack;
  for (std::size_t rank = 0; rank < 4; ++rank)
    over.give(rank, {floats_of(static_cast<double>(rank)), numbers(DType::int8, {}), numbers(DType::int16, {7})});
  const Done done(over);
  CHECK(done.plan.outputs.size() == 3);
  for (std::size_t rank = 0; rank < 4; ++rank) {
    const auto whole = done.given_to(rank);
    CHECK(whole[0] == Tensor{DType::float32, {4, 2}, {0, 1, 1, 2, 2, 3, 3, 4}});
    CHECK(whole[1] == Tensor{DType::int8, {4, 0}, {}});
    CHECK(whole[2] == Tensor{DType::int16, {4, 1}, {7, 7, 7, 7}});
    CHECK(done.device_given(rank) == over.homes[rank]);
  }
}

TEST_CASE("transfers are begun in groups of a few hundred, in their order") {
  OverDevices over(Kind::allgather, {0, 1});
  for (auto& each : over.op.contributions) each.layout = Layout::stack;
  for (std::size_t rank = 0; rank < 2; ++rank) over.give(rank, Leaves(400, floats_of(1)));
  const auto plan = make_plan(over.op).value();
  std::map<std::uint32_t, std::size_t> groups;
  std::uint32_t last = 0;
  for (const auto& transfer : plan.work.transfers) {
    CHECK(transfer.group >= last);
    last = transfer.group;
    ++groups[transfer.group];
  }
  CHECK(groups == std::map<std::uint32_t, std::size_t>{{0, 512}, {1, 288}});
}

TEST_CASE("a gather that stacks arrays of several GPUs makes the whole on the root's") {
  OverDevices over(Kind::gather, {0, 1, 2});
  for (auto& each : over.op.contributions) each.layout = Layout::stack, each.root = 1;
  over.give_floats();
  const Done done(over);
  CHECK(done.plan.outputs.size() == 1);
  CHECK(done.plan.given_to(0).empty());
  CHECK(done.given_to(1) == Leaves{Tensor{DType::float32, {3, 2}, {0, 1, 1, 2, 2, 3}}});
  CHECK(done.device_given(1) == Device::cuda(1));
  CHECK(done.plan.work.transfers.size() == 2);
  for (auto& each : over.op.contributions) each.root = 5;
  CHECK(make_plan(over.op).value().outputs.empty());
}

TEST_CASE("an all_to_all over several GPUs joins the parts of each rank on its GPU") {
  const std::vector<int> devices{1, 0, 1};
  OverDevices over(Kind::all_to_all, devices);
  for (auto& each : over.op.contributions) each.layout = Layout::concat;
  std::vector<std::vector<Tensor>> parts(3, std::vector<Tensor>(3));
  for (std::size_t from = 0; from < 3; ++from)
    for (std::size_t to = 0; to < 3; ++to) {
      Tensor part = numbers(DType::int32, std::vector<std::complex<double>>(from * to, static_cast<double>(from)));
      parts[to][from] = part;
      over.give(from, {part});
    }
  const Done done(over);
  for (std::size_t rank = 0; rank < 3; ++rank) {
    CHECK(done.given_to(rank) == Leaves{join(parts[rank])});
    CHECK(done.device_given(rank) == over.homes[rank]);
  }
}

TEST_CASE("one process that gives arrays of several GPUs gets all results where the first of them lies") {
  const auto kind = GENERATE(Kind::allreduce, Kind::reduce, Kind::scan, Kind::allgather, Kind::reduce_scatter);
  const auto reduce_op = GENERATE(ReduceOp::sum, ReduceOp::bxor);
  INFO(muster::ipc::name(kind));
  OverDevices over(kind, {2, 0, 1}, reduce_op);
  for (std::size_t rank = 0; rank < 3; ++rank)
    for (int part = 0; part < (kind == Kind::reduce_scatter ? 3 : 1); ++part)
      over.give(rank, {numbers(DType::int32, {static_cast<double>(1 << rank)})});
  if (kind == Kind::allgather)
    for (auto& each : over.op.contributions) each.layout = Layout::stack;
  const Done done(over, Takers::one);
  std::size_t results = 0;
  for (const auto& output : done.plan.outputs) {
    if (output.is_scratch) continue;
    ++results;
    CHECK(output.device == Device::cuda(2));
  }
  CHECK(results == (kind == Kind::scan ? 2 : kind == Kind::reduce_scatter ? 3 : 1));
  const bool for_all = kind == Kind::allreduce || kind == Kind::allgather;
  CHECK(done.plan.gives_all_the_same() == for_all);
  if (kind == Kind::allreduce) CHECK(done.given_to(0) == Leaves{numbers(DType::int32, {7})});
  if (kind == Kind::scan) CHECK(done.given_to(1) == Leaves{numbers(DType::int32, {3})});
  if (kind == Kind::reduce_scatter) CHECK(done.given_to(2) == Leaves{numbers(DType::int32, {7})});
}

TEST_CASE("an array without elements may be said to lie anywhere") {
  OverDevices over(Kind::allreduce, {1, 0});
  const auto elsewhere = GENERATE(Device::cpu(), Device::cuda(5));
  for (std::size_t rank = 0; rank < 2; ++rank) {
    over.give(rank, {numbers(DType::float32, {}), floats_of(1)});
    auto& leaves = const_cast<muster::ipc::Manifest*>(over.op.contributions[rank].inputs[0].manifest)->leaves;
    leaves.front().device = elsewhere;
  }
  SECTION("over two GPUs") { CHECK(Done(over).given_to(0)[1] == numbers(DType::float32, {2, 4})); }
  SECTION("over one") {
    OverDevices one(Kind::allreduce, {1, 1});
    for (std::size_t rank = 0; rank < 2; ++rank) one.op.contributions[rank].inputs = over.op.contributions[0].inputs;
    const Done done(one);
    CHECK(done.given_to(0)[1] == numbers(DType::float32, {2, 4}));
    CHECK(done.device_given(0) == Device::cuda(1));
  }
}

TEST_CASE("a rank whose own arrays lie on several GPUs is named") {
  OverDevices over(Kind::reduce_scatter, {0, 1});
  over.give(0, {floats_of(1)});
  over.give(0, {floats_of(1)});
  over.give(1, {floats_of(1)});
  over.give(1, {floats_of(1)}, Device::cuda(2));
  const auto why = over.refused();
  CHECK(why.message() == "test can't work: rank 1 gave it arrays on cuda:1 and on cuda:2");
  CHECK(why.ranks() == std::vector{1});
}

namespace {

/// Puts the last array of a rank's input somewhere else.
void move_last(Op& op, std::size_t rank, Device device) {
  auto& leaves = const_cast<muster::ipc::Manifest*>(op.contributions[rank].inputs[0].manifest)->leaves;
  leaves.back().device = device;
}

}  // namespace

TEST_CASE("one object with arrays on several devices is neither reduced nor copied") {
  const auto elsewhere = GENERATE(Device::cpu(), Device::cuda(1));
  SECTION("a reduction") {
    OverDevices over(Kind::allreduce, {0, 0});
    for (std::size_t rank = 0; rank < 2; ++rank) over.give(rank, {floats_of(1), floats_of(2)});
    move_last(over.op, 1, elsewhere);
    CHECK(over.refused().message() == "test can't work: rank 1 gave it arrays on cuda:0 and on " + name(elsewhere));
  }
  SECTION("a copy, in an open group") {
    OverDevices over(Kind::broadcast, {0, 0});
    over.give(0, {floats_of(1), floats_of(2)});
    move_last(over.op, 0, elsewhere);
    const auto plan = make_plan(over.op, Sharing::copy);
    REQUIRE_FALSE(plan);
    CHECK(plan.error().message() == "test has arrays on cuda:0 and on " + name(elsewhere));
    CHECK(make_plan(over.op));  // as it is, each array is read where it lies
  }
}

TEST_CASE("a copy is made where its original lies") {
  OverDevices over(Kind::allgather, {0, 1});
  over.give_floats();
  const auto plan = make_plan(over.op, Sharing::copy).value();
  REQUIRE(plan.outputs.size() == 2);
  CHECK(plan.outputs[0].device == Device::cuda(0));
  CHECK(plan.outputs[1].device == Device::cuda(1));
  CHECK(plan.devices == Devices{Device::cuda(0), Device::cuda(1)});
}

TEST_CASE("inputs that are given as they are may lie anywhere, and nothing is done") {
  for (const auto kind : {Kind::broadcast, Kind::allgather, Kind::gather}) {
    OverDevices over(kind, {0, 1, 2});
    over.give_floats();
    const auto plan = make_plan(over.op).value();
    CHECK(plan.outputs.empty());
    CHECK(plan.work_bytes == 0);
  }
}

TEST_CASE("an op over GPUs is measured as large as it is") {
  const auto kind =
      GENERATE(Kind::allreduce, Kind::reduce, Kind::reduce_scatter, Kind::scan, Kind::allgather, Kind::all_to_all);
  const auto takers = GENERATE(Takers::ranks, Takers::one);
  const auto dtype = GENERATE(DType::float16, DType::int16);
  INFO(muster::ipc::name(kind));
  OverDevices over(kind, {0, 0, 1, 2, 0, 2}, ReduceOp::sum);
  if (kind == Kind::allgather)
    for (auto& each : over.op.contributions) each.layout = Layout::stack;
  if (kind == Kind::all_to_all)
    for (auto& each : over.op.contributions) each.layout = Layout::concat;
  const bool has_parts = kind == Kind::reduce_scatter || kind == Kind::all_to_all;
  for (std::size_t rank = 0; rank < over.homes.size(); ++rank)
    for (std::size_t part = 0; part < (has_parts ? over.homes.size() : 1); ++part)
      over.give(rank, {floats_of(1), numbers(dtype, {1}), numbers(DType::int8, {1, 2, 3})});
  const auto extent = measure_plan(over.op, Sharing::alias, takers).value();
  const auto plan = make_plan(over.op, Sharing::alias, takers).value();
  CHECK(plan.outputs.size() <= extent.outputs);
  CHECK(plan.own_bytes() <= extent.bytes);
}
