#include "collective/plan.hpp"

#include <algorithm>
#include <map>
#include <optional>
#include <span>
#include <utility>

#include "base/assert.hpp"
#include "collective/agreement.hpp"

namespace musterd {

using muster::Code;
using muster::DType;
using muster::Error;
using muster::Result;
using muster::ipc::Kind;
using muster::ipc::Layout;
using muster::ipc::Leaf;
using muster::ipc::Makers;
using muster::ipc::Manifest;

namespace {

/// Vector loads, and threads that share an output, want cache lines of their own.
constexpr std::uint64_t alignment = 64;

/// A cap far above any memory and far below overflow, for the sum of an output's leaves.
constexpr std::uint64_t output_bytes_max = std::uint64_t{1} << 60;

/// Leaves of all inputs of one op: what planning costs is bounded, whatever the world size.
constexpr std::size_t leaves_per_op_max = std::size_t{1} << 22;

/// The ranks' inputs of one index.
using Column = muster::ipc::SmallVector<const Input*, 8>;

/// What one input's leaf turns into.
struct LeafSpec {
  DType dtype = DType::float32;
  std::vector<std::int64_t> shape;
};

class Planner {
 public:
  Planner(const Op& op, Sharing sharing, Plan& plan)
      : op_(op), sharing_(sharing), kind_(op.contributions.front().kind), plan_(plan) {
    plan_.gives.resize(op.contributions.size());
  }

  /// What stands in the way, if anything.
  std::optional<Error> run() {
    if (const auto leaves = leaves_in_all(); leaves > leaves_per_op_max)
      return Error(Code::invalid, op_.name + " is over " + std::to_string(leaves) + " arrays in all",
                   "use fewer and larger arrays: one op takes at most " + std::to_string(leaves_per_op_max));
    fill();
    if (!plan_.outputs.empty() && several_users())
      for (PlannedOutput& output : plan_.outputs) output.manifest.makers = Makers::several_users;
    return std::move(error_);
  }

 private:
  void fill() {
    switch (kind_) {
      case Kind::barrier:
      case Kind::split:
      case Kind::reform: return;
      case Kind::allreduce: return give_all(reduced(column(0)));
      case Kind::reduce: return give_root(reduced(column(0)));
      case Kind::scan: return scan();
      case Kind::broadcast: return give_all(input(root(), 0));
      case Kind::allgather:
      case Kind::gather: return gather();
      case Kind::scatter: return scatter();
      case Kind::reduce_scatter: return reduce_scatter();
      case Kind::all_to_all: return all_to_all();
      case Kind::send:
      case Kind::recv: return deliver();
    }
  }

  // ---- who gets what ----

  [[nodiscard]] std::size_t leaves_in_all() const {
    std::size_t leaves = 0;
    for (const Contribution& contribution : op_.contributions)
      for (const Input& input : contribution.inputs) leaves += input.manifest->leaves.size();
    return leaves;
  }

  /// Once of several users' making, always.
  [[nodiscard]] bool several_users() const {
    if (sharing_ == Sharing::copy) return true;
    for (const Contribution& contribution : op_.contributions)
      for (const Input& input : contribution.inputs)
        if (input.manifest->makers == Makers::several_users) return true;
    return false;
  }

  [[nodiscard]] std::size_t size() const { return op_.contributions.size(); }
  [[nodiscard]] const Contribution& at(std::size_t contributor) const { return op_.contributions[contributor]; }
  /// Index of this contributor's element in a list of world_size.
  [[nodiscard]] std::size_t place_of(std::size_t contributor) const {
    return static_cast<std::size_t>(at(contributor).rank);
  }

  [[nodiscard]] std::size_t root() const {
    for (std::size_t contributor = 0; contributor < size(); ++contributor)
      if (at(contributor).rank == at(0).root) return contributor;
    MUSTER_ASSERT(false, "an op with a root starts with its root");
    return 0;
  }

  /// Everybody's input of that index, in rank order.
  [[nodiscard]] Column column(std::size_t index) const {
    Column inputs;
    inputs.reserve(size());
    for (const Contribution& contribution : op_.contributions) inputs.push_back(&contribution.inputs[index]);
    return inputs;
  }

  void give(std::size_t contributor, Given given) { plan_.gives[contributor].push_back(given); }
  void give_root(Given given) { give(root(), given); }
  void give_all(Given given) {
    for (std::size_t contributor = 0; contributor < size(); ++contributor) give(contributor, given);
  }

  void scan() {
    const Column inputs = column(0);
    for (std::size_t contributor = 0; contributor < size(); ++contributor) {
      Given prefix = reduced({inputs.begin(), inputs.begin() + static_cast<std::ptrdiff_t>(contributor) + 1});
      give(contributor, prefix);
    }
  }

  void gather() {
    const bool everybody = kind_ == Kind::allgather;
    const std::size_t first = everybody ? 0 : root();
    const std::size_t last = everybody ? size() : first + 1;
    if (at(0).layout == Layout::stack) {
      const Given stack = stacked(column(0));
      for (std::size_t contributor = first; contributor < last; ++contributor) give(contributor, stack);
      return;
    }
    for (std::size_t contributor = first; contributor < last; ++contributor)
      for (std::size_t source = 0; source < size(); ++source) give(contributor, input(source, 0));
  }

  void scatter() {
    const std::size_t source = root();
    for (std::size_t contributor = 0; contributor < size(); ++contributor)
      give(contributor, input(source, place_of(contributor)));
  }

  void reduce_scatter() {
    for (std::size_t contributor = 0; contributor < size(); ++contributor) {
      const std::size_t index = place_of(contributor);
      give(contributor, reduced(column(index), index));
    }
  }

  void all_to_all() {
    for (std::size_t contributor = 0; contributor < size(); ++contributor) {
      const std::size_t index = place_of(contributor);
      if (at(0).layout == Layout::concat) {
        give(contributor, joined(column(index), index));
        continue;
      }
      for (std::size_t source = 0; source < size(); ++source) give(contributor, input(source, index));
    }
  }

  void deliver() {
    const bool first_sends = at(0).kind == Kind::send;
    give(first_sends ? 1 : 0, input(first_sends ? 0 : 1, 0));
  }

  // ---- results that are made ----

  /// What that contributor gave, unchanged. Copied once, however many get it.
  Given input(std::size_t contributor, std::size_t index) {
    if (sharing_ == Sharing::alias) return {false, contributor, index};
    const auto [copy, fresh] = copies_.try_emplace({contributor, index});
    if (fresh) copy->second = copied(at(contributor).inputs[index]);
    return copy->second;
  }

  Given copied(const Input& from) {
    const Manifest& like = *from.manifest;
    const std::size_t output = add_output(like);
    for (std::size_t leaf = 0; leaf < like.leaves.size(); ++leaf)
      append_parts({&from}, leaf, output, add_leaf(output, like.leaves[leaf].dtype, like.shape(like.leaves[leaf])));
    return {true, 0, output};
  }

  /// A fold over one input changes nothing unless it changes the dtype.
  [[nodiscard]] bool is_identity(const Column& inputs) const {
    const auto& leaves = inputs.front()->manifest->leaves;
    return inputs.size() == 1 && std::all_of(leaves.begin(), leaves.end(), [&](const Leaf& leaf) {
             return muster::result_dtype(leaf.dtype, at(0).op) == leaf.dtype;
           });
  }

  /// The fold of `inputs`, which are the first contributors' inputs of that index.
  Given reduced(const Column& inputs, std::size_t index = 0) {
    if (is_identity(inputs)) return input(0, index);
    const Manifest& like = *inputs.front()->manifest;
    const std::size_t output = add_output(like);
    for (std::size_t leaf = 0; leaf < like.leaves.size(); ++leaf) {
      const Leaf& from = like.leaves[leaf];
      const auto dtype = muster::result_dtype(from.dtype, at(0).op);
      MUSTER_ASSERT(dtype, "a reduce op without meaning is refused when it is contributed");
      const auto offset = add_leaf(output, *dtype, like.shape(from));
      if (offset && from.count > 0) add_fold(inputs, leaf, output, *offset);
    }
    return {true, 0, output};
  }

  void add_fold(const Column& inputs, std::size_t leaf, std::size_t output, std::uint64_t offset) {
    const Leaf& like = inputs.front()->manifest->leaves[leaf];
    Fold fold{output, offset, like.dtype, at(0).op, like.count, {}};
    fold.inputs.reserve(inputs.size());
    for (const Input* input : inputs) fold.inputs.push_back(input->addresses[leaf]);
    plan_.work_bytes += like.bytes() * inputs.size() + leaf_bytes(output, leaf);
    plan_.folds.push_back(std::move(fold));
  }

  /// All inputs along a new axis 0.
  Given stacked(const Column& inputs) {
    const Manifest& like = *inputs.front()->manifest;
    const std::size_t output = add_output(like);
    for (std::size_t leaf = 0; leaf < like.leaves.size(); ++leaf) {
      const auto part = like.shape(like.leaves[leaf]);
      std::vector<std::int64_t> shape{static_cast<std::int64_t>(inputs.size())};
      shape.insert(shape.end(), part.begin(), part.end());
      append_parts(inputs, leaf, output, add_leaf(output, like.leaves[leaf].dtype, shape));
    }
    return {true, 0, output};
  }

  /// All inputs along their axis 0.
  Given joined(const Column& inputs, std::size_t index) {
    if (inputs.size() == 1) return input(0, index);
    const Manifest& like = *inputs.front()->manifest;
    const std::size_t output = add_output(like);
    for (std::size_t leaf = 0; leaf < like.leaves.size(); ++leaf) {
      const auto part = like.shape(like.leaves[leaf]);
      std::vector<std::int64_t> shape(part.begin(), part.end());
      shape[0] = 0;
      for (const Input* input : inputs) shape[0] += input->manifest->shape(input->manifest->leaves[leaf])[0];
      append_parts(inputs, leaf, output, add_leaf(output, like.leaves[leaf].dtype, shape));
    }
    return {true, 0, output};
  }

  void append_parts(const Column& inputs, std::size_t leaf, std::size_t output, std::optional<std::uint64_t> offset) {
    if (!offset) return;
    for (const Input* input : inputs) {
      const std::uint64_t bytes = input->manifest->leaves[leaf].bytes();
      if (bytes == 0) continue;
      plan_.copies.push_back({output, *offset, input->addresses[leaf], bytes});
      plan_.work_bytes += 2 * bytes;
      *offset += bytes;
    }
  }

  std::size_t add_output(const Manifest& like) {
    PlannedOutput output;
    output.manifest.structure = like.structure;
    output.manifest.leaves.reserve(like.leaves.size());
    output.manifest.dims.reserve(like.dims.size() + like.leaves.size());
    plan_.outputs.push_back(std::move(output));
    return plan_.outputs.size() - 1;
  }

  [[nodiscard]] std::uint64_t leaf_bytes(std::size_t output, std::size_t leaf) const {
    return plan_.outputs[output].manifest.leaves[leaf].bytes();
  }

  /// Where the leaf begins in its output; nothing, and error_ set, if there is no such array.
  std::optional<std::uint64_t> add_leaf(std::size_t output, DType dtype, std::span<const std::int64_t> shape) {
    auto& [manifest, bytes] = plan_.outputs[output];
    const std::uint64_t aligned = (bytes + alignment - 1) / alignment * alignment;
    // Which segment is known only when the result has got its memory.
    constexpr muster::ipc::SegmentId some_segment{1};
    auto added = manifest.add(some_segment, aligned, dtype, shape);
    if (!added || manifest.leaves.back().bytes() > output_bytes_max - aligned) {
      error_ = Error(Code::invalid, op_.name + " would make a result that is too large for any memory",
                     "give smaller arrays");
      return std::nullopt;
    }
    Leaf& leaf = manifest.leaves.back();
    leaf.segment = {};
    if (leaf.bytes() == 0) {
      leaf.offset = 0;
      return 0;
    }
    bytes = aligned + leaf.bytes();
    return aligned;
  }

  const Op& op_;
  Sharing sharing_;
  Kind kind_;
  Plan& plan_;
  std::map<std::pair<std::size_t, std::size_t>, Given> copies_;  ///< of inputs, by contributor and index
  std::optional<Error> error_;
};

}  // namespace

Result<Plan> make_plan(const Op& op, Sharing sharing) {
  MUSTER_ASSERT(!op.contributions.empty(), "an op has contributors");
  // Filled in where it will lie: it is not cheap to move.
  Result<Plan> plan(std::in_place);
  if (auto error = Planner(op, sharing, *plan).run()) plan = std::move(*error);
  return plan;
}

}  // namespace musterd
