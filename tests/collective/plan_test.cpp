// What each rank gets from each collective, and that a plan makes exactly that. First examples, then random ops of
// every kind against the reference.
#include <catch2/catch.hpp>

#include <algorithm>
#include <numeric>
#include <random>

#include "collective/agreement.hpp"
#include "collective/host_lane.hpp"
#include "collective/plan.hpp"
#include "reference.hpp"

using namespace musterd;
using namespace musterd::testing;
using muster::DType;
using muster::ReduceOp;
using muster::ipc::Kind;
using muster::ipc::Layout;

namespace {

using Leaves = std::vector<Tensor>;    // of one object
using Objects = std::vector<Leaves>;   // that one rank gives or gets
using PerRank = std::vector<Objects>;  // one for each contributor

Op make_op(Kind kind, int world_size, const std::vector<int>& ranks) {
  Op op;
  op.name = "test";
  op.world_size = world_size;
  for (int rank : ranks) op.contributions.push_back(contribution(rank, kind, static_cast<Ticket>(rank)));
  return op;
}

void set_inputs(Op& op, const PerRank& given) {
  for (std::size_t i = 0; i < given.size(); ++i)
    for (const Leaves& leaves : given[i]) {
      std::vector<Array> arrays;
      arrays.reserve(leaves.size());
      for (const Tensor& tensor : leaves) arrays.push_back(encode(tensor));
      op.contributions[i].inputs.push_back(bundle(std::move(arrays), "nesting"));
    }
}

/// The outputs of a plan, made as the session makes them.
struct Made {
  explicit Made(const Plan& plan) {
    // Slack, so that the region can be aligned like those of the daemon.
    for (const PlannedOutput& output : plan.outputs) {
      storage.emplace_back(output.bytes + 128, std::byte{0xa5});
      void* place = storage.back().data();
      std::size_t room = storage.back().size();
      regions.push_back(static_cast<std::byte*>(std::align(64, output.bytes, place, room)));
      places.push_back(borrowed.place({regions.back(), output.bytes}));
    }
  }
  [[nodiscard]] Job job(const Plan& plan) const {
    Job made;
    made.work = plan.work;
    made.outputs.assign(places.begin(), places.end());
    return made;
  }
  std::vector<std::vector<std::byte>> storage;
  std::vector<std::byte*> regions;
  Borrowed borrowed;
  std::vector<Place> places;
};

void check_layout(const PlannedOutput& output) {
  std::uint64_t end = 0;
  for (const auto& leaf : output.manifest.leaves) {
    CHECK(!leaf.segment);
    if (leaf.bytes() == 0) {
      CHECK(leaf.offset == 0);
      continue;
    }
    CHECK(leaf.offset % 64 == 0);
    CHECK(leaf.offset >= end);
    end = leaf.offset + leaf.bytes();
  }
  CHECK(end == output.bytes);
}

PerRank run(const Op& op, const Plan& plan) {
  for (const PlannedOutput& output : plan.outputs) check_layout(output);
  const Made made(plan);
  HostLane::run_all(made.job(plan));
  PerRank result;
  for (std::size_t contributor = 0; contributor < op.contributions.size(); ++contributor) {
    Objects objects;
    for (const Given& given : plan.given_to(contributor)) {
      const Input* input = given.is_output ? nullptr : &op.contributions.at(given.contributor).inputs.at(given.index);
      const auto& manifest = input ? *input->manifest : plan.outputs.at(given.index).manifest;
      CHECK(manifest.structure == "nesting");
      Leaves leaves;
      leaves.reserve(manifest.leaves.size());
      for (std::size_t leaf = 0; leaf < manifest.leaves.size(); ++leaf) {
        const auto* data =
            input ? host_address(input->place(leaf)) : made.regions[given.index] + manifest.leaves[leaf].offset;
        leaves.push_back(decode(manifest.leaves[leaf].dtype, manifest.shape(manifest.leaves[leaf]), data));
      }
      objects.push_back(std::move(leaves));
    }
    result.push_back(std::move(objects));
  }
  return result;
}

Tensor numbers(DType dtype, std::vector<std::complex<double>> values) {
  return {dtype, {static_cast<std::int64_t>(values.size())}, std::move(values)};
}

/// Calls `combine` with the same leaf of each object.
template <class Combine>
Leaves by_leaf(const std::vector<Leaves>& objects, Combine combine) {
  Leaves result;
  for (std::size_t leaf = 0; leaf < objects.front().size(); ++leaf) {
    std::vector<Tensor> tensors;
    tensors.reserve(objects.size());
    for (const Leaves& object : objects) tensors.push_back(object[leaf]);
    result.push_back(combine(tensors));
  }
  return result;
}

/// What each contributor must get.
PerRank expected(const Op& op, const PerRank& given) {
  const Contribution& first = op.contributions.front();
  const std::size_t size = op.contributions.size();
  const auto rank = [&](std::size_t i) { return static_cast<std::size_t>(op.contributions[i].rank); };
  const auto is_root = [&](std::size_t i) { return op.contributions[i].rank == first.root; };
  const auto column = [&](std::size_t index) {
    std::vector<Leaves> objects;
    objects.reserve(given.size());
    for (const Objects& each : given) objects.push_back(each.at(index));
    return objects;
  };
  const auto folded = [&](const std::vector<Leaves>& objects) {
    return by_leaf(objects, [&](const auto& tensors) { return fold(first.op, tensors); });
  };
  std::size_t root = 0;
  while (root < size && !is_root(root)) ++root;

  PerRank result(size);
  for (std::size_t i = 0; i < size; ++i) {
    Objects& gets = result[i];
    switch (first.kind) {
      case Kind::allreduce: gets = {folded(column(0))}; break;
      case Kind::reduce:
        if (is_root(i)) gets = {folded(column(0))};
        break;
      case Kind::scan: {
        auto prefix = column(0);
        prefix.resize(i + 1);
        gets = {folded(prefix)};
        break;
      }
      case Kind::broadcast: gets = {given[root][0]}; break;
      case Kind::allgather:
      case Kind::gather:
        if (first.kind == Kind::gather && !is_root(i)) break;
        gets = column(0);
        if (first.layout == Layout::stack) gets = {by_leaf(gets, [](const auto& tensors) { return stack(tensors); })};
        break;
      case Kind::scatter: gets = {given[root][rank(i)]}; break;
      case Kind::reduce_scatter: gets = {folded(column(rank(i)))}; break;
      case Kind::all_to_all:
        gets = column(rank(i));
        if (first.layout == Layout::concat) gets = {by_leaf(gets, [](const auto& tensors) { return join(tensors); })};
        break;
      default: break;
    }
  }
  return result;
}

/// Random ops from a seed.
class Random {
 public:
  explicit Random(unsigned seed) : engine_(seed) {}

  int below(int end) { return std::uniform_int_distribution(0, end - 1)(engine_); }

  std::complex<double> value(DType dtype, ReduceOp op) {
    // Values are small enough that sums and products of 8 are exact in every dtype except the narrow integers, which
    // wrap.
    const auto part = [&] { return static_cast<double>(op == ReduceOp::prod ? 1 + below(2) : below(4)); };
    if (dtype == DType::bool_) return static_cast<double>(below(2));
    return is_complex(dtype) ? std::complex<double>(part(), part() - 2) : std::complex<double>(part());
  }

  Tensor tensor(DType dtype, ReduceOp op, std::vector<std::int64_t> shape) {
    Tensor made{dtype, std::move(shape), {}};
    for (std::size_t i = 0; i < count_of(made.shape); ++i) made.values.push_back(value(dtype, op));
    return made;
  }

  std::vector<std::int64_t> shape(int ndim_min) {
    std::vector<std::int64_t> sizes;
    for (int axis = below(3) + ndim_min; axis > 0; --axis) sizes.push_back(below(8) == 0 ? 0 : 1 + below(5));
    return sizes;
  }

  DType dtype(ReduceOp op) {
    while (true) {
      const auto chosen = static_cast<DType>(below(muster::dtype_count));
      if (muster::result_dtype(chosen, op)) return chosen;
    }
  }

  struct Form {
    DType dtype;
    std::vector<std::int64_t> shape;
  };
  std::vector<Form> form(ReduceOp op, int ndim_min) {
    std::vector<Form> leaves;
    for (int leaf = below(4); leaf >= 0; --leaf) leaves.push_back({dtype(op), shape(ndim_min)});
    return leaves;
  }

  Leaves object(const std::vector<Form>& form, ReduceOp op) {
    Leaves leaves;
    leaves.reserve(form.size());
    for (const Form& leaf : form) leaves.push_back(tensor(leaf.dtype, op, leaf.shape));
    return leaves;
  }

  std::vector<int> contributors(int world_size, int root) {
    std::vector<int> ranks;
    const bool all = below(3) > 0;
    for (int rank = 0; rank < world_size; ++rank)
      if (all || rank == root || below(2) == 0) ranks.push_back(rank);
    return ranks;
  }

  /// Inputs in a form that `op` allows: equal shapes if it reduces or stacks, equal except for axis 0 if it joins.
  PerRank inputs(const Op& op) {
    const Contribution& first = op.contributions.front();
    const bool joins = first.layout == Layout::concat;
    const bool equal = is_reduction(first.kind) || first.layout == Layout::stack || joins;
    const bool many =
        first.kind == Kind::scatter || first.kind == Kind::reduce_scatter || first.kind == Kind::all_to_all;
    const bool root_only = first.kind == Kind::scatter || first.kind == Kind::broadcast;
    std::vector<std::vector<Form>> forms;
    forms.reserve(static_cast<std::size_t>(op.world_size));
    for (int i = 0; i < op.world_size; ++i) forms.push_back(form(first.op, joins ? 1 : 0));
    PerRank given;
    for (const Contribution& contribution : op.contributions) {
      Objects objects;
      const int count = root_only && contribution.rank != first.root ? 0 : many ? op.world_size : 1;
      for (int i = 0; i < count; ++i) {
        auto own = equal ? forms[static_cast<std::size_t>(i)] : form(first.op, 0);
        if (joins)
          for (Form& leaf : own) leaf.shape[0] = below(4);
        objects.push_back(object(own, first.op));
      }
      given.push_back(std::move(objects));
    }
    return given;
  }

  ReduceOp reduce_op() { return static_cast<ReduceOp>(below(muster::reduce_op_count)); }

 private:
  std::mt19937 engine_;
};

constexpr std::array collectives{Kind::allreduce, Kind::reduce,  Kind::scan,           Kind::broadcast, Kind::allgather,
                                 Kind::gather,    Kind::scatter, Kind::reduce_scatter, Kind::all_to_all};

}  // namespace

TEST_CASE("allreduce makes one result for all, in rank order") {
  Op op = make_op(Kind::allreduce, 3, {0, 1, 2});
  const PerRank given{
      {{numbers(DType::bool_, {1, 0})}}, {{numbers(DType::bool_, {1, 0})}}, {{numbers(DType::bool_, {1, 1})}}};
  set_inputs(op, given);
  const Plan plan = make_plan(op).value();
  REQUIRE(plan.outputs.size() == 1);
  REQUIRE(plan.work.folds.size() == 1);
  CHECK(plan.work.inputs == muster::ipc::SmallVector<Place, 8>{op.contributions[0].inputs[0].place(0),
                                                               op.contributions[1].inputs[0].place(0),
                                                               op.contributions[2].inputs[0].place(0)});
  CHECK(plan.work_bytes == 3 * 2 + 2 * 8);
  const PerRank result = run(op, plan);
  for (const Objects& objects : result) CHECK(objects == Objects{{numbers(DType::int64, {3, 1})}});
}

TEST_CASE("mean divides by the number of contributors") {
  Op op = make_op(Kind::allreduce, 4, {1, 3});
  for (auto& each : op.contributions) each.op = ReduceOp::mean;
  set_inputs(op, {{{numbers(DType::int32, {1})}}, {{numbers(DType::int32, {4})}}});
  CHECK(run(op, make_plan(op).value())[0] == Objects{{numbers(DType::float64, {2.5})}});
}

TEST_CASE("an op that changes no values moves no bytes") {
  auto moves = [](Kind kind, Layout layout, int world_size) {
    std::vector<int> ranks(static_cast<std::size_t>(world_size));
    std::iota(ranks.begin(), ranks.end(), 0);
    Op op = make_op(kind, world_size, ranks);
    Random random(1);
    for (auto& each : op.contributions) each.layout = layout;
    set_inputs(op, random.inputs(op));
    const Plan plan = make_plan(op).value();
    return !plan.outputs.empty() || plan.work_bytes > 0;
  };
  for (Kind kind : {Kind::broadcast, Kind::allgather, Kind::gather, Kind::scatter, Kind::all_to_all})
    CHECK_FALSE(moves(kind, Layout::parts, 4));
  CHECK_FALSE(moves(Kind::all_to_all, Layout::concat, 1));
  CHECK(moves(Kind::allgather, Layout::stack, 1));
}

namespace {

/// Whether every rank gets only results, with bytes of their own.
bool gives_no_input(const Plan& plan) {
  return std::all_of(plan.gives.begin(), plan.gives.end(), [](const Gives& gives) {
    return std::all_of(gives.begin(), gives.end(), [](const Given& given) { return given.is_output; });
  });
}

}  // namespace

TEST_CASE("where inputs are copied, one copy serves all ranks that get it") {
  auto outputs = [](Kind kind, int world_size) {
    std::vector<int> ranks(static_cast<std::size_t>(world_size));
    std::iota(ranks.begin(), ranks.end(), 0);
    Op op = make_op(kind, world_size, ranks);
    Random random(1);
    set_inputs(op, random.inputs(op));
    const Plan plan = make_plan(op, Sharing::copy).value();
    CHECK(gives_no_input(plan));
    return plan.outputs.size();
  };
  CHECK(outputs(Kind::broadcast, 4) == 1);
  CHECK(outputs(Kind::allgather, 4) == 4);
  CHECK(outputs(Kind::gather, 4) == 4);
  CHECK(outputs(Kind::scatter, 4) == 4);
  CHECK(outputs(Kind::all_to_all, 4) == 16);
  CHECK(outputs(Kind::allreduce, 1) == 1);
}

TEST_CASE("a recv gets a copy where inputs are copied") {
  Op op = make_op(Kind::send, 2, {0, 1});
  op.contributions[1].kind = Kind::recv;
  set_inputs(op, {{{numbers(DType::int8, {7}), numbers(DType::float64, {1, 2})}}, {}});
  const Plan plan = make_plan(op, Sharing::copy).value();
  CHECK(gives_no_input(plan));
  CHECK(plan.outputs[0].manifest.structure == "nesting");
  CHECK(run(op, plan)[1] == Objects{{numbers(DType::int8, {7}), numbers(DType::float64, {1, 2})}});
}

TEST_CASE("one rank's reduction is its input, unless the dtype changes") {
  for (Kind kind : {Kind::allreduce, Kind::reduce, Kind::scan, Kind::reduce_scatter}) {
    Op same = make_op(kind, 1, {0});
    set_inputs(same, {{{numbers(DType::float16, {1, 2}), numbers(DType::int8, {3})}}});
    CHECK(make_plan(same).value().outputs.empty());
    Op other = make_op(kind, 1, {0});
    set_inputs(other, {{{numbers(DType::float16, {1, 2}), numbers(DType::bool_, {1})}}});
    const Plan plan = make_plan(other).value();
    CHECK(plan.work.folds.size() == 2);
    CHECK(run(other, plan)[0] == Objects{{numbers(DType::float16, {1, 2}), numbers(DType::int64, {1})}});
  }
}

TEST_CASE("arrays without elements make results without bytes") {
  Op op = make_op(Kind::allreduce, 2, {0, 1});
  set_inputs(op, PerRank(2, {{Tensor{DType::float32, {0, 3}, {}}}}));
  const Plan plan = make_plan(op).value();
  REQUIRE(plan.outputs.size() == 1);
  CHECK(plan.outputs[0].bytes == 0);
  CHECK(plan.work.folds.empty());
  CHECK(run(op, plan)[1] == Objects{{Tensor{DType::float32, {0, 3}, {}}}});
}

TEST_CASE("a recv gets what was sent, whichever rank is lower") {
  for (auto [source, destination] : {std::pair(0, 2), std::pair(2, 0), std::pair(1, 1)}) {
    Op op = make_op(Kind::send, 3, {std::min(source, destination), std::max(source, destination)});
    const std::size_t sender = source <= destination ? 0 : 1;
    op.contributions[1 - sender].kind = Kind::recv;
    PerRank given(2);
    given[sender] = {{numbers(DType::int8, {7})}};
    set_inputs(op, given);
    const PerRank result = run(op, make_plan(op).value());
    CHECK(result[sender].empty());
    CHECK(result[1 - sender] == Objects{{numbers(DType::int8, {7})}});
  }
}

TEST_CASE("barrier, split and reform give nothing") {
  for (Kind kind : {Kind::barrier, Kind::split, Kind::reform}) {
    const Plan plan = make_plan(make_op(kind, 2, {0, 1})).value();
    CHECK(plan.gives == muster::ipc::SmallVector<Gives, 8>(2));
  }
}

TEST_CASE("an op whose root is elsewhere makes what the root would get, and gives it to nobody here") {
  for (Kind kind : {Kind::reduce, Kind::gather}) {
    Op op = make_op(kind, 4, {0, 2});
    for (auto& each : op.contributions) {
      each.root = 3;
      each.layout = Layout::stack;
      each.inputs.push_back(plain(floats({1, 2})));
    }
    const Plan plan = make_plan(op).value();
    CHECK(plan.outputs.size() == 1);
    CHECK(plan.work_bytes > 0);
    CHECK(plan.gives == muster::ipc::SmallVector<Gives, 8>(2));
  }
}

TEST_CASE("a broadcast or scatter without its root's input fails, and names the root") {
  for (const auto sharing : {Sharing::alias, Sharing::copy})
    for (Kind kind : {Kind::broadcast, Kind::scatter}) {
      Op op = make_op(kind, 4, {0, 2});
      for (auto& each : op.contributions) each.root = 3;
      const auto plan = make_plan(op, sharing);
      REQUIRE_FALSE(plan);
      CHECK(plan.error().code() == muster::Code::peer_lost);
      CHECK(plan.error().ranks() == std::vector<int>{3});
    }
}

TEST_CASE("a result beyond any memory is Invalid") {
  Op op = make_op(Kind::allgather, 2, {0, 1});
  for (auto& each : op.contributions) {
    each.layout = Layout::stack;
    auto huge = std::make_shared<muster::ipc::Manifest>();
    huge->add({1}, 0, DType::uint8, std::vector{std::int64_t{1} << 62}).value();
    static const SegmentMemory* const nowhere = nullptr;
    each.inputs.push_back({huge, huge.get(), {&nowhere, 1}});
  }
  const auto plan = make_plan(op);
  REQUIRE_FALSE(plan);
  CHECK(plan.error().code() == muster::Code::invalid);
}

TEST_CASE("arrays without elements whose joined length overflows are Invalid") {
  constexpr int ranks = 16;  // with the wrap-around the length would be 0
  std::vector<int> all(ranks);
  std::iota(all.begin(), all.end(), 0);
  Op op = make_op(Kind::all_to_all, ranks, all);
  auto empty = std::make_shared<muster::ipc::Manifest>();
  empty->add({}, 0, DType::uint8, std::vector<std::int64_t>{std::int64_t{1} << 60, 0}).value();
  static const SegmentMemory* const nowhere = nullptr;
  for (auto& each : op.contributions) {
    each.layout = Layout::concat;
    each.inputs.assign(ranks, {empty, empty.get(), {&nowhere, 1}});
  }
  const auto plan = make_plan(op);
  REQUIRE_FALSE(plan);
  CHECK(plan.error().code() == muster::Code::invalid);
}

TEST_CASE("a scan reads each input once and writes each prefix once") {
  Op op = make_op(Kind::scan, 64, [] {
    std::vector<int> ranks(64);
    std::iota(ranks.begin(), ranks.end(), 0);
    return ranks;
  }());
  PerRank given;
  for (int rank = 0; rank < 64; ++rank) given.push_back({{numbers(DType::float32, {1}), numbers(DType::int8, {1})}});
  set_inputs(op, given);
  const Plan plan = make_plan(op).value();
  CHECK(plan.outputs.size() == 63);  // the first rank's prefix is its input
  CHECK(plan.work.folds.size() == 2);
  CHECK(plan.work.inputs.size() == 2 * 64);
  CHECK(plan.work_bytes == (64 + 63) * (4 + 1));
  CHECK(run(op, plan)[63] == Objects{{numbers(DType::float32, {64}), numbers(DType::int8, {64})}});
}

TEST_CASE("each prefix of half types is rounded once") {
  // 2049 is not a float16: a chain through rounded prefixes would stay at 2048.
  Op op = make_op(Kind::scan, 3, {0, 1, 2});
  set_inputs(op,
             {{{numbers(DType::float16, {2048})}}, {{numbers(DType::float16, {1})}}, {{numbers(DType::float16, {1})}}});
  CHECK(run(op, make_plan(op).value())[2] == Objects{{numbers(DType::float16, {2050})}});
}

namespace {

/// An op of `ranks` ranks, each of which gives `inputs` bundles of `leaves` arrays of one byte.
Op wide_op(Kind kind, std::size_t ranks, std::size_t leaves, std::size_t inputs = 1, std::string structure = {}) {
  std::vector<int> all(ranks);
  std::iota(all.begin(), all.end(), 0);
  Op op = make_op(kind, static_cast<int>(ranks), all);
  const Input input = bundle(std::vector<Array>(leaves, blank(DType::uint8, {1})), std::move(structure));
  for (auto& each : op.contributions) each.inputs.assign(inputs, input);
  return op;
}

Op with_layout(Op op, Layout layout) {
  for (auto& each : op.contributions) each.layout = layout;
  return op;
}

std::string refusal(const Op& op, Sharing sharing = Sharing::alias) {
  const auto plan = make_plan(op, sharing);
  CHECK(measure_plan(op, sharing).ok() == plan.ok());
  if (plan) return "planned";
  CHECK(plan.error().code() == muster::Code::invalid);
  CHECK_FALSE(plan.error().hint().empty());
  return plan.error().message();
}

}  // namespace

TEST_CASE("a result that all ranks get is planned once, however many they are") {
  const Plan plan = make_plan(wide_op(Kind::allgather, 1000, 1)).value();
  CHECK(plan.gives.size() == 1);
  CHECK(plan.given_to(999).size() == 1000);
}

TEST_CASE("ops of usual sizes have a plan, however many ranks they have") {
  CHECK(make_plan(wide_op(Kind::allreduce, 1024, 1)));
  CHECK(make_plan(wide_op(Kind::scan, 1024, 1)));
  CHECK(make_plan(wide_op(Kind::allgather, 1024, 1)));
  CHECK(make_plan(with_layout(wide_op(Kind::allgather, 1024, 1), Layout::stack)));
  CHECK(make_plan(wide_op(Kind::broadcast, 1024, 5000)));
  CHECK(make_plan(wide_op(Kind::allgather, 64, 5000)));
  CHECK(make_plan(wide_op(Kind::allreduce, 64, 1000)));
  CHECK(make_plan(wide_op(Kind::scan, 64, 1000)));
  CHECK(make_plan(wide_op(Kind::allreduce, 2, 1 << 16)));
  CHECK(make_plan(wide_op(Kind::reduce_scatter, 256, 2, 256)));
  CHECK(make_plan(wide_op(Kind::all_to_all, 128, 1, 128)));
  CHECK(make_plan(with_layout(wide_op(Kind::all_to_all, 256, 1, 256), Layout::concat)));
  CHECK(make_plan(wide_op(Kind::all_to_all, 64, 1, 64), Sharing::copy));
}

TEST_CASE("an op that is too large is Invalid, with the numbers, before anything is built") {
  CHECK(refusal(wide_op(Kind::allreduce, 1024, 1024)) ==
        "test of 1024 ranks would read too many arrays: 1048576 of at most 131072");
  CHECK(refusal(wide_op(Kind::scan, 1024, 128)) ==
        "test of 1024 ranks would make too many arrays: 131072 of at most 65536");
  CHECK(refusal(wide_op(Kind::allreduce, 2, (1 << 16) + 1)) ==
        "test of 2 ranks would read too many arrays: 131074 of at most 131072");
  CHECK(refusal(wide_op(Kind::reduce_scatter, 400, 1, 400)) ==
        "test of 400 ranks would read too many arrays: 160000 of at most 131072");
  CHECK(refusal(with_layout(wide_op(Kind::all_to_all, 400, 1, 400), Layout::concat)) ==
        "test of 400 ranks would read too many arrays: 160000 of at most 131072");
  CHECK(refusal(with_layout(wide_op(Kind::gather, 1024, 129), Layout::stack)) ==
        "test of 1024 ranks would read too many arrays: 132096 of at most 131072");
  CHECK(refusal(wide_op(Kind::all_to_all, 600, 1, 600)) ==
        "test of 600 ranks would give too many objects: 360000 of at most 32768");
  CHECK(refusal(wide_op(Kind::all_to_all, 65, 1, 65), Sharing::copy) ==
        "test of 65 ranks would make too many objects: 4225 of at most 4096");
  // Each of a thousand results has a megabyte of names.
  CHECK(refusal(wide_op(Kind::scan, 1000, 1, 1, std::string(1 << 20, 'x'))) ==
        "test of 1000 ranks would take too long a description of its results: 1000 MiB; the limit is 8 MiB");
}

namespace {

void check_random_op(unsigned seed) {
  Random random(seed);
  const Kind kind = collectives[static_cast<std::size_t>(random.below(collectives.size()))];
  const int world_size = 1 + random.below(8);
  const int root = random.below(world_size);
  Op op = make_op(kind, world_size, random.contributors(world_size, root));
  const ReduceOp reduce_op = random.reduce_op();
  Layout layout = Layout::parts;
  if (random.below(2) == 0 && (kind == Kind::allgather || kind == Kind::gather)) layout = Layout::stack;
  if (random.below(2) == 0 && kind == Kind::all_to_all) layout = Layout::concat;
  for (auto& each : op.contributions) each.op = reduce_op, each.root = root, each.layout = layout;
  const PerRank given = random.inputs(op);
  set_inputs(op, given);

  INFO("seed " << seed << ": " << name(kind) << " " << name(reduce_op) << " of " << op.contributions.size() << " of "
               << world_size << " ranks");
  for (std::size_t index = 0; index < op.contributions.size(); ++index) {
    REQUIRE_FALSE(check_contribution(op.name, op.world_size, op.contributions[index]));
    REQUIRE_FALSE(check_agreement(op.name, std::span(op.contributions).first(index), op.contributions[index]));
  }
  for (const Sharing sharing : {Sharing::alias, Sharing::copy}) {
    const Plan plan = make_plan(op, sharing).value();
    const PlanExtent extent = measure_plan(op, sharing).value();
    CHECK(plan.outputs.size() <= extent.outputs);
    CHECK(plan.own_bytes() <= extent.bytes);
  }
  CHECK(run(op, make_plan(op).value()) == expected(op, given));
  const Plan copying = make_plan(op, Sharing::copy).value();
  CHECK(gives_no_input(copying));
  CHECK(run(op, copying) == expected(op, given));
}

}  // namespace

TEST_CASE("random ops of every kind give what the reference gives") {
  for (unsigned seed = 0; seed < 3000; ++seed) check_random_op(seed);
}
