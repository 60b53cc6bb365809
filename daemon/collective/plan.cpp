#include "collective/plan.hpp"

#include <algorithm>
#include <map>
#include <optional>
#include <span>
#include <utility>

#include <fmt/format.h>

#include <muster/ipc/byte_count.hpp>

#include "base/assert.hpp"
#include "collective/agreement.hpp"

namespace musterd {

using muster::Code;
using muster::Device;
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

/// The inputs of all ranks that have the same index.
using Column = muster::ipc::SmallVector<const Input*, 8>;

std::uint64_t bytes_of(const Manifest& manifest) {
  return manifest.leaves.size() * sizeof(Leaf) + manifest.dims.size() * sizeof(std::int64_t) +
         manifest.structure.size() + manifest.guise.size();
}

/// What an op amounts to, worked out before anything is built.
struct Extent {
  std::size_t arrays_read = 0;
  std::size_t arrays_made = 0;
  std::size_t manifest_bytes = 0;
  std::size_t objects_made = 0;
  std::size_t objects_given = 0;

  /// Adds outputs that are like this manifest, made of that many inputs that are like it.
  void add_outputs(const Manifest& like, std::size_t outputs, std::size_t inputs) {
    objects_made += outputs;
    arrays_read += inputs * like.leaves.size();
    arrays_made += outputs * like.leaves.size();
    // A result may have one more dimension.
    manifest_bytes += outputs * (bytes_of(like) + like.leaves.size() * sizeof(std::int64_t));
  }
};

class Planner {
 public:
  Planner(const Op& op, Sharing sharing, Plan& plan)
      : op_(op), sharing_(sharing), kind_(op.contributions.front().kind), plan_(plan) {}

  /// Measures the plan. Returns an error if it would be too large.
  std::optional<Error> measure() {
    extent_ = extent();
    if (auto error = check(extent_)) return error;
    if (sharing_ == Sharing::alias) return std::nullopt;
    add_copies();
    return check(extent_);
  }

  [[nodiscard]] PlanExtent measured() const {
    const bool folds =
        kind_ == Kind::allreduce || kind_ == Kind::reduce || kind_ == Kind::scan || kind_ == Kind::reduce_scatter;
    constexpr std::size_t known_copy_bytes = 128;
    const std::size_t each_read = folds ? sizeof(Place) : sizeof(CopyBytes);
    const std::size_t each_output = sizeof(PlannedOutput) + (sharing_ == Sharing::copy ? known_copy_bytes : 0);
    return {.outputs = extent_.objects_made,
            .bytes = extent_.manifest_bytes + extent_.objects_made * each_output + extent_.arrays_read * each_read +
                     (folds ? extent_.arrays_made * sizeof(Fold) : 0) + size() * sizeof(Gives) +
                     (size() + extent_.objects_given) * sizeof(Given)};
  }

  std::optional<Error> run() {
    if (auto error = measure()) return error;
    plan_.gives.resize(gives_all_the_same() ? 1 : size());
    plan_.outputs.reserve(extent_.objects_made);
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
      case Kind::broadcast: return broadcast();
      case Kind::allgather:
      case Kind::gather: return gather();
      case Kind::scatter: return scatter();
      case Kind::reduce_scatter: return reduce_scatter();
      case Kind::all_to_all: return all_to_all();
      case Kind::send:
      case Kind::recv: return deliver();
    }
  }

  // ---- how much it is ----

  [[nodiscard]] Extent extent() const {
    Extent extent;
    switch (kind_) {
      case Kind::barrier:
      case Kind::split:
      case Kind::reform:
      case Kind::broadcast:
      case Kind::scatter:
      case Kind::send:
      case Kind::recv: break;
      case Kind::allreduce:
      case Kind::reduce: extent.add_outputs(first(0), 1, size()); break;
      case Kind::scan: extent.add_outputs(first(0), size(), size()); break;
      case Kind::allgather:
      case Kind::gather:
        if (at(0).layout == Layout::stack) extent.add_outputs(first(0), 1, size());
        else extent.objects_given = size();
        break;
      case Kind::all_to_all:
        if (at(0).layout != Layout::concat) {
          extent.objects_given = size() * size();
          break;
        }
        [[fallthrough]];
      case Kind::reduce_scatter:
        for (std::size_t contributor = 0; contributor < size(); ++contributor)
          extent.add_outputs(first(place_of(contributor)), 1, size());
        break;
    }
    return extent;
  }

  /// If inputs are copied, each input that a rank gets is one more output.
  void add_copies() {
    const auto copy = [&](std::size_t contributor, std::size_t index) {
      extent_.add_outputs(*at(contributor).inputs[index].manifest, 1, 1);
    };
    switch (kind_) {
      case Kind::broadcast:
        if (const auto source = root()) copy(*source, 0);
        return;
      case Kind::send:
      case Kind::recv: return copy(sender(), 0);
      case Kind::scatter:
        if (const auto source = root())
          for (std::size_t contributor = 0; contributor < size(); ++contributor) copy(*source, place_of(contributor));
        return;
      case Kind::allgather:
      case Kind::gather:
        if (at(0).layout == Layout::stack) return;
        for (std::size_t source = 0; source < size(); ++source) copy(source, 0);
        return;
      case Kind::all_to_all:
        if (at(0).layout == Layout::concat) return;
        for (std::size_t source = 0; source < size(); ++source)
          for (std::size_t contributor = 0; contributor < size(); ++contributor) copy(source, place_of(contributor));
        return;
      default: return;  // the other kinds make results anyway
    }
  }

  [[nodiscard]] std::optional<Error> check(const Extent& extent) const {
    const auto refused = [&](const std::string& what, const char* hint) {
      return Error(Code::invalid, fmt::format("{} of {} ranks would {}", op_.name, size(), what), hint);
    };
    const auto too_much = [&](std::size_t amount, std::size_t max, const std::string& what, const char* hint) {
      return refused(fmt::format("{}: {} of at most {}", what, amount, max), hint);
    };
    constexpr auto larger = "use fewer and larger arrays, or fewer ranks";
    const PlanLimits& max = plan_limits;
    if (size() > contributions_max) return too_much(size(), contributions_max, "have too many ranks", larger);
    if (extent.arrays_read > max.arrays_read)
      return too_much(extent.arrays_read, max.arrays_read, "read too many arrays", larger);
    if (extent.arrays_made > max.arrays_made)
      return too_much(extent.arrays_made, max.arrays_made, "make too many arrays", larger);
    if (extent.manifest_bytes > max.manifest_bytes)
      return refused("take too long a description of its results: " +
                         muster::ipc::over_text(extent.manifest_bytes, max.manifest_bytes),
                     "use fewer arrays and shorter names and constants in their containers");
    if (extent.objects_made > max.objects_made)
      return too_much(extent.objects_made, max.objects_made, "make too many objects",
                      "use fewer ranks, or let the parts be stacked or joined: all_to_all of one array makes one for "
                      "each rank");
    if (extent.objects_given > max.objects_given)
      return too_much(extent.objects_given, max.objects_given, "give too many objects",
                      "use fewer ranks, or let the parts be stacked or joined: all_to_all of one array gives one to "
                      "each rank");
    return std::nullopt;
  }

  // ---- who gets what ----

  /// Whether several users made the results. What is made of such an object counts as made by several users, too.
  [[nodiscard]] bool several_users() const {
    if (sharing_ == Sharing::copy) return true;
    for (const Contribution& contribution : op_.contributions)
      for (const Input& input : contribution.inputs)
        if (input.manifest->makers == Makers::several_users) return true;
    return false;
  }

  [[nodiscard]] std::size_t size() const { return op_.contributions.size(); }
  [[nodiscard]] const Contribution& at(std::size_t contributor) const { return op_.contributions[contributor]; }
  /// Index of this contributor's element in a list of world_size elements.
  [[nodiscard]] std::size_t place_of(std::size_t contributor) const {
    return static_cast<std::size_t>(at(contributor).rank);
  }

  /// The root's index among the contributors; nothing if it did not contribute.
  [[nodiscard]] std::optional<std::size_t> root() const {
    for (std::size_t contributor = 0; contributor < size(); ++contributor)
      if (at(contributor).rank == at(0).root) return contributor;
    return std::nullopt;
  }

  /// Which of a send and its recv is the sender.
  [[nodiscard]] std::size_t sender() const { return at(0).kind == Kind::send ? 0 : 1; }

  /// The first contributor's input of that index. It stands for all ranks' inputs where these must agree.
  [[nodiscard]] const Manifest& first(std::size_t index) const { return *at(0).inputs[index].manifest; }

  /// All ranks' inputs of that index, in rank order.
  [[nodiscard]] Column column(std::size_t index) const {
    Column inputs;
    inputs.reserve(size());
    for (const Contribution& contribution : op_.contributions) inputs.push_back(&contribution.inputs[index]);
    return inputs;
  }

  [[nodiscard]] bool gives_all_the_same() const {
    return kind_ == Kind::allreduce || kind_ == Kind::broadcast || kind_ == Kind::allgather;
  }
  void give(std::size_t contributor, Given given) { plan_.gives[contributor].push_back(given); }
  void give_root(Given given) {
    if (const auto receiver = root()) give(*receiver, given);
  }
  void give_all(Given given) { give(0, given); }

  /// Each rank gets its own output, but all are made in one pass over the inputs.
  void scan() {
    const Column inputs = column(0);
    const std::size_t unchanged = is_identity(Column{inputs.front()}) ? 1 : 0;
    if (unchanged == 1) give(0, input(0, 0));
    const auto prefixes = static_cast<std::uint32_t>(size() - unchanged);
    if (prefixes == 0) return;
    const std::size_t output = add_reduced(inputs, prefixes);
    for (std::size_t prefix = 1; prefix < prefixes; ++prefix) plan_.outputs.push_back(plan_.outputs[output]);
    for (std::size_t prefix = 0; prefix < prefixes; ++prefix) give(prefix + unchanged, {true, 0, output + prefix});
  }

  void broadcast() {
    const auto source = root();
    if (!source) return refuse_without_root();
    give_all(input(*source, 0));
  }

  void gather() {
    const auto give_it = [&](Given given) { kind_ == Kind::allgather ? give_all(given) : give_root(given); };
    if (at(0).layout == Layout::stack) return give_it(stacked(column(0)));
    for (std::size_t source = 0; source < size(); ++source) give_it(input(source, 0));
  }

  void scatter() {
    const auto source = root();
    if (!source) return refuse_without_root();
    for (std::size_t contributor = 0; contributor < size(); ++contributor)
      give(contributor, input(*source, place_of(contributor)));
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

  void deliver() { give(1 - sender(), input(sender(), 0)); }

  // ---- results that are made ----

  /// What that contributor gave, unchanged. If it has to be copied, it is copied once, however many ranks get it.
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
      append_parts({&from}, leaf, output,
                   add_leaf(output, like.leaves[leaf], like.leaves[leaf].dtype, like.shape(like.leaves[leaf])));
    return {true, 0, output};
  }

  /// A fold over one input changes nothing unless it changes the dtype.
  [[nodiscard]] bool is_identity(const Column& inputs) const {
    const auto& leaves = inputs.front()->manifest->leaves;
    return inputs.size() == 1 && std::all_of(leaves.begin(), leaves.end(), [&](const Leaf& leaf) {
             return muster::result_dtype(leaf.dtype, at(0).op) == leaf.dtype;
           });
  }

  /// The fold of `inputs`, which are all ranks' inputs of that index.
  Given reduced(const Column& inputs, std::size_t index = 0) {
    if (is_identity(inputs)) return input(0, index);
    return {true, 0, add_reduced(inputs, 0)};
  }

  /// The output of a fold, or the first one of a scan.
  std::size_t add_reduced(const Column& inputs, std::uint32_t prefixes) {
    const Manifest& like = *inputs.front()->manifest;
    const std::size_t output = add_output(like);
    // Reserves for all outputs at once.
    plan_.work.folds.reserve(prefixes == 0 ? extent_.arrays_made : like.leaves.size());
    plan_.work.inputs.reserve(extent_.arrays_read);
    for (std::size_t leaf = 0; leaf < like.leaves.size(); ++leaf) {
      const Leaf& from = like.leaves[leaf];
      const auto dtype = muster::result_dtype(from.dtype, at(0).op);
      MUSTER_ASSERT(dtype, "a reduce op without meaning is refused when it is contributed");
      const auto offset = add_leaf(output, from, *dtype, like.shape(from));
      if (offset && from.count > 0) add_fold(inputs, leaf, output, *offset, prefixes);
    }
    return output;
  }

  void add_fold(const Column& inputs, std::size_t leaf, std::size_t output, std::uint64_t offset,
                std::uint32_t prefixes) {
    const Leaf& like = inputs.front()->manifest->leaves[leaf];
    auto& places = plan_.work.inputs;
    plan_.work.folds.push_back({.output = static_cast<std::uint32_t>(output),
                                .prefixes = prefixes,
                                .offset = offset,
                                .count = like.count,
                                .first_input = static_cast<std::uint32_t>(places.size()),
                                .ranks = static_cast<std::uint16_t>(inputs.size()),
                                .dtype = like.dtype,
                                .op = at(0).op});
    for (const Input* input : inputs) places.push_back(input->place(leaf));
    plan_.work_bytes += like.bytes() * inputs.size() + leaf_bytes(output, leaf) * std::max(prefixes, 1U);
  }

  /// Stacks all inputs along a new axis 0.
  Given stacked(const Column& inputs) {
    const Manifest& like = *inputs.front()->manifest;
    const std::size_t output = add_output(like);
    for (std::size_t leaf = 0; leaf < like.leaves.size(); ++leaf) {
      const auto part = like.shape(like.leaves[leaf]);
      std::vector<std::int64_t> shape{static_cast<std::int64_t>(inputs.size())};
      shape.insert(shape.end(), part.begin(), part.end());
      append_parts(inputs, leaf, output, add_leaf(output, like.leaves[leaf], like.leaves[leaf].dtype, shape));
    }
    return {true, 0, output};
  }

  /// Joins all inputs along their axis 0.
  Given joined(const Column& inputs, std::size_t index) {
    if (inputs.size() == 1) return input(0, index);
    const Manifest& like = *inputs.front()->manifest;
    const std::size_t output = add_output(like);
    for (std::size_t leaf = 0; leaf < like.leaves.size(); ++leaf) {
      const auto part = like.shape(like.leaves[leaf]);
      std::vector<std::int64_t> shape(part.begin(), part.end());
      shape[0] = 0;
      // Arrays without elements may have any length, so the sum may overflow.
      for (const Input* input : inputs)
        if (__builtin_add_overflow(shape[0], input->manifest->shape(input->manifest->leaves[leaf])[0], &shape[0]))
          return refuse_size(), Given{};
      append_parts(inputs, leaf, output, add_leaf(output, like.leaves[leaf], like.leaves[leaf].dtype, shape));
    }
    return {true, 0, output};
  }

  void append_parts(const Column& inputs, std::size_t leaf, std::size_t output, std::optional<std::uint64_t> offset) {
    if (!offset) return;
    plan_.work.copies.reserve(extent_.arrays_read);
    for (const Input* input : inputs) {
      const std::uint64_t bytes = input->manifest->leaves[leaf].bytes();
      if (bytes == 0) continue;
      plan_.work.copies.push_back({output, *offset, input->place(leaf), bytes});
      plan_.work_bytes += 2 * bytes;
      *offset += bytes;
    }
  }

  std::size_t add_output(const Manifest& like) {
    PlannedOutput output;
    output.manifest.structure = like.structure;
    output.manifest.guise = like.guise;
    output.manifest.leaves.reserve(like.leaves.size());
    output.manifest.dims.reserve(like.dims.size() + like.leaves.size());
    plan_.outputs.push_back(std::move(output));
    return plan_.outputs.size() - 1;
  }

  [[nodiscard]] std::uint64_t leaf_bytes(std::size_t output, std::size_t leaf) const {
    return plan_.outputs[output].manifest.leaves[leaf].bytes();
  }

  /// Where the leaf begins in its output; nothing, and error_ set, if there is no such array.
  /// It lies where `from` does; what is pinned there need not be here.
  std::optional<std::uint64_t> add_leaf(std::size_t output, const Leaf& from, DType dtype,
                                        std::span<const std::int64_t> shape) {
    auto& [manifest, bytes] = plan_.outputs[output];
    const Device device = from.device.is_host() ? Device::cpu() : from.device;
    if (!std::exchange(has_leaves_, true)) plan_.device = device;
    if (plan_.device != device) return refuse_devices(device);
    const std::uint64_t aligned = (bytes + alignment - 1) / alignment * alignment;
    // The segment is known only when the result has its memory.
    constexpr muster::ipc::SegmentId some_segment{1};
    auto added = manifest.add(some_segment, aligned, dtype, shape, device);
    if (!added || manifest.leaves.back().bytes() > output_bytes_max - aligned) return refuse_size();
    Leaf& leaf = manifest.leaves.back();
    leaf.segment = {};
    if (leaf.bytes() == 0) {
      leaf.offset = 0;
      return 0;
    }
    bytes = aligned + leaf.bytes();
    return aligned;
  }

  std::nullopt_t refuse_devices(Device other) {
    error_ = Error(Code::invalid,
                   fmt::format("{} would make arrays on {} and on {}", op_.name, name(plan_.device), name(other)),
                   "give arrays of one device in one op");
    return std::nullopt;
  }

  void refuse_without_root() {
    error_ = Error(Code::peer_lost, fmt::format("{} has no input: its root, rank {}, gave none", op_.name, at(0).root),
                   "call it again with a root that is there", {at(0).root});
  }

  std::nullopt_t refuse_size() {
    error_ =
        Error(Code::invalid, op_.name + " would make a result that is too large for any memory", "give smaller arrays");
    return std::nullopt;
  }

  const Op& op_;
  Sharing sharing_;
  Kind kind_;
  Plan& plan_;
  Extent extent_;
  std::map<std::pair<std::size_t, std::size_t>, Given> copies_;  ///< of inputs, by contributor and index
  bool has_leaves_ = false;                                      ///< any output
  std::optional<Error> error_;
};

}  // namespace

std::uint64_t Plan::own_bytes() const {
  std::uint64_t bytes = work.inputs.size() * sizeof(work.inputs[0]) + work.folds.size() * sizeof(Fold) +
                        work.copies.size() * sizeof(CopyBytes);
  for (const PlannedOutput& output : outputs) bytes += bytes_of(output.manifest);
  for (const Gives& each : gives) bytes += each.size() * sizeof(Given);
  return bytes;
}

Result<PlanExtent> measure_plan(const Op& op, Sharing sharing) {
  MUSTER_ASSERT(!op.contributions.empty(), "an op has contributors");
  Plan none;
  Planner planner(op, sharing, none);
  if (auto error = planner.measure()) return std::move(*error);
  return planner.measured();
}

Result<Plan> make_plan(const Op& op, Sharing sharing) {
  MUSTER_ASSERT(!op.contributions.empty(), "an op has contributors");
  // The plan is filled in where it will stay, as moving it is not cheap.
  Result<Plan> plan(std::in_place);
  if (auto error = Planner(op, sharing, *plan).run()) plan = std::move(*error);
  return plan;
}

}  // namespace musterd
