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
#include "collective/exchange.hpp"
#include "collective/plan_work.hpp"

namespace musterd {

using muster::Code;
using muster::Device;
using muster::Error;
using muster::Result;
using muster::ipc::Kind;
using muster::ipc::Layout;
using muster::ipc::Leaf;
using muster::ipc::Makers;
using muster::ipc::Manifest;

namespace {

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
  // Over several devices.
  std::size_t exchanges = 0;
  std::size_t parts = 0;  ///< of devices in reductions, which they may fold apart
  std::size_t transfers = 0;
  std::size_t last_folds = 0;
  std::size_t last_inputs = 0;
  std::size_t last_reads = 0;  ///< by all last folds; those of a scan share inputs

  /// A reduction between so many devices, of which so many get the result.
  void add_reduction(const Manifest& like, muster::ReduceOp op, std::size_t devices, std::size_t receivers) {
    for (const Leaf& leaf : like.leaves) {
      parts += devices;
      if (exchanged_as(leaf.dtype, op)) {
        ++exchanges;
        continue;
      }
      transfers += (devices - 1) * receivers;
      last_folds += receivers;
      last_inputs += devices * receivers;
    }
  }

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
  Planner(const Op& op, Sharing sharing, Takers takers, Plan& plan)
      : op_(op), sharing_(sharing), takers_(takers), kind_(op.contributions.front().kind), plan_(plan) {}

  /// Measures the plan. Returns an error if it would be too large, or can't be done where the arrays lie.
  std::optional<Error> measure() {
    extent_ = extent();
    if (auto error = check(extent_)) return error;
    if (auto error = find_devices()) return error;
    if (over_devices()) extent_ = extent();
    if (sharing_ == Sharing::copy) add_copies();
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
                     (folds ? (extent_.arrays_made + extent_.parts) * sizeof(Fold) : 0) +
                     extent_.exchanges * sizeof(Exchange) + extent_.parts * sizeof(ExchangePart) +
                     extent_.transfers * sizeof(Transfer) + extent_.last_folds * sizeof(Fold) +
                     extent_.last_inputs * sizeof(Source) + size() * sizeof(Gives) +
                     (size() + extent_.objects_given) * sizeof(Given)};
  }

  std::optional<Error> run() {
    if (auto error = measure()) return error;
    plan_.gives.resize(gives_all_the_same() ? 1 : size());
    plan_.devices = devices_;
    work_.emplace(op_, plan_, homes_);
    work_->expect(extent_.arrays_read, extent_.arrays_made, extent_.objects_made);
    fill();
    if (!error_) error_ = work_->take_error();
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
      case Kind::allreduce: return allreduce();
      case Kind::reduce: return reduce();
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

  // ---- where it is done ----

  /// Whether results are made of what all ranks give. Other kinds give inputs as they are, wherever they lie, or copies
  /// beside them.
  [[nodiscard]] bool makes_results() const {
    const bool has_layout = kind_ == Kind::allgather || kind_ == Kind::gather || kind_ == Kind::all_to_all;
    return is_reduction(kind_) || (has_layout && at(0).layout != Layout::parts);
  }
  /// Where this contributor's result is made.
  [[nodiscard]] Device target(std::size_t contributor) const {
    return homes_[takers_ == Takers::one ? 0 : contributor];
  }
  [[nodiscard]] bool over_devices() const { return devices_.size() > 1; }

  /// Finds where each rank's arrays lie. Their number has been checked.
  std::optional<Error> find_devices() {
    if (!makes_results()) return std::nullopt;
    homes_.reserve(size());
    for (const Contribution& contribution : op_.contributions) {
      std::optional<Device> home;
      std::optional<Device> of_empty;
      for (const Input& input : contribution.inputs)
        for (const Leaf& leaf : input.manifest->leaves) {
          const Device device = counted(leaf.device);
          if (leaf.count == 0) {  // it lies nowhere
            if (!of_empty) of_empty = device;
            continue;
          }
          if (!home) home = device;
          if (*home != device) return lies_on_several(contribution.rank, *home, device);
        }
      if (!home) home = of_empty;
      homes_.push_back(home.value_or(Device::cpu()));
      if (home && std::find(devices_.begin(), devices_.end(), *home) == devices_.end()) devices_.push_back(*home);
    }
    std::sort(devices_.begin(), devices_.end(),
              [](Device a, Device b) { return std::pair(a.kind, a.index) < std::pair(b.kind, b.index); });
    if (devices_.empty()) devices_.push_back(Device::cpu());
    if (over_devices() && devices_.front().is_host())
      return Error(Code::invalid,
                   fmt::format("{} has arrays on {}, and nothing connects the host's memory with a GPU's in one op",
                               op_.name, devices_text(devices_)),
                   "give arrays of one kind of device");
    return std::nullopt;
  }

  [[nodiscard]] Error lies_on_several(int rank, Device one, Device other) const {
    return {
        Code::invalid,
        fmt::format("{} can't work: rank {} gave it arrays on {} and on {}", op_.name, rank, name(one), name(other)),
        "let each rank give arrays of one device; the op has failed on every rank",
        {rank}};
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
      case Kind::reduce:
        extent.add_outputs(first(0), receivers(), size());
        if (!over_devices()) break;
        extent.objects_given = size();
        extent.add_reduction(first(0), at(0).op, devices_.size(), receivers());
        break;
      case Kind::scan:
        extent.add_outputs(first(0), size(), size());
        if (!over_devices()) break;
        extent.transfers = extent.last_inputs = devices_.size() * extent.arrays_read;
        extent.last_folds = extent.arrays_made;
        extent.last_reads = reads_of_scan() * first(0).leaves.size();
        break;
      case Kind::allgather:
      case Kind::gather:
        if (at(0).layout == Layout::stack) extent.add_outputs(first(0), receivers(), receivers() * size());
        if (at(0).layout != Layout::stack || over_devices()) extent.objects_given = size();
        if (over_devices()) extent.transfers = extent.arrays_read;
        break;
      case Kind::all_to_all:
        if (at(0).layout != Layout::concat) {
          extent.objects_given = size() * size();
          break;
        }
        for (std::size_t contributor = 0; contributor < size(); ++contributor)
          extent.add_outputs(first(place_of(contributor)), 1, size());
        if (over_devices()) extent.transfers = extent.arrays_read;
        break;
      case Kind::reduce_scatter:
        for (std::size_t contributor = 0; contributor < size(); ++contributor) {
          const Manifest& like = first(place_of(contributor));
          extent.add_outputs(like, 1, size());
          if (over_devices()) extent.add_reduction(like, at(0).op, devices_.size(), 1);
        }
        break;
    }
    if (over_devices()) extent.objects_made += devices_.size();  // scratch memory
    return extent;
  }

  /// Ranks of one device that follow each other take one fold, of all ranks up to the last of them.
  [[nodiscard]] std::size_t reads_of_scan() const {
    std::size_t reads = 0;
    for (std::size_t rank = 0; rank < size(); ++rank)
      if (rank + 1 == size() || homes_[rank + 1] != homes_[rank]) reads += rank + 1;
    return reads;
  }

  /// Whether the same result is made on each device.
  [[nodiscard]] bool is_made_on_each() const {
    const bool for_all = kind_ == Kind::allreduce || kind_ == Kind::allgather;
    return for_all && over_devices() && takers_ == Takers::ranks;
  }
  [[nodiscard]] std::size_t receivers() const { return is_made_on_each() ? devices_.size() : 1; }

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
    // Each transfer is for one of these.
    const std::size_t arrays_read = extent.arrays_read + std::max(extent.last_inputs, extent.last_reads);
    if (arrays_read > max.arrays_read) return too_much(arrays_read, max.arrays_read, "read too many arrays", larger);
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
    if (kind_ == Kind::broadcast) return true;
    return (kind_ == Kind::allreduce || kind_ == Kind::allgather) && !is_made_on_each();
  }
  void give(std::size_t contributor, Given given) { plan_.gives[contributor].push_back(given); }
  void give_root(Given given) {
    if (const auto receiver = root()) give(*receiver, given);
  }
  void give_all(Given given) { give(0, given); }
  /// Each rank gets the result that is on its device. `first`: that on the first device.
  void give_each(std::size_t first) {
    for (std::size_t contributor = 0; contributor < size(); ++contributor)
      give(contributor, made(first + work_->index_of(target(contributor))));
  }

  void allreduce() {
    if (is_made_on_each()) return give_each(work_->reduced_everywhere(column(0)));
    give_all(reduced(column(0), 0));
  }

  void reduce() {
    const auto receiver = root();
    if (receiver || !over_devices()) give_root(reduced(column(0), receiver.value_or(0)));
  }

  /// Each rank gets its own output, but all are made in one pass over the inputs.
  void scan() {
    const Column inputs = column(0);
    const std::size_t unchanged = is_identity(Column{inputs.front()}) ? 1 : 0;
    if (unchanged == 1) give(0, input(0, 0));
    const std::size_t prefixes = size() - unchanged;
    if (prefixes == 0) return;
    std::vector<Device> targets(size());
    for (std::size_t contributor = 0; contributor < size(); ++contributor) targets[contributor] = target(contributor);
    const std::size_t output = work_->scanned(inputs, prefixes, targets);
    for (std::size_t prefix = 0; prefix < prefixes; ++prefix) give(prefix + unchanged, made(output + prefix));
  }

  void broadcast() {
    const auto source = root();
    if (!source) return refuse_without_root();
    give_all(input(*source, 0));
  }

  void gather() {
    const auto give_it = [&](Given given) { kind_ == Kind::allgather ? give_all(given) : give_root(given); };
    if (at(0).layout == Layout::stack) {
      if (is_made_on_each()) return give_each(stacked_on_each());
      const auto receiver = kind_ == Kind::gather ? root() : 0;
      if (receiver || !over_devices()) give_it(made(work_->stacked(column(0), target(receiver.value_or(0)))));
      return;
    }
    for (std::size_t source = 0; source < size(); ++source) give_it(input(source, 0));
  }

  std::size_t stacked_on_each() {
    const std::size_t first = plan_.outputs.size();
    for (const Device device : devices_) work_->stacked(column(0), device);
    return first;
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
      give(contributor, reduced(column(index), contributor, index));
    }
  }

  void all_to_all() {
    for (std::size_t contributor = 0; contributor < size(); ++contributor) {
      const std::size_t index = place_of(contributor);
      if (at(0).layout == Layout::concat) {
        give(contributor, size() == 1 ? input(0, index) : made(work_->joined(column(index), target(contributor))));
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
    if (fresh) copy->second = made(work_->copied(at(contributor).inputs[index]));
    return copy->second;
  }

  static Given made(std::size_t output) { return {true, 0, output}; }

  /// A fold over one input changes nothing unless it changes the dtype.
  [[nodiscard]] bool is_identity(const Column& inputs) const {
    const auto& leaves = inputs.front()->manifest->leaves;
    return inputs.size() == 1 && std::all_of(leaves.begin(), leaves.end(), [&](const Leaf& leaf) {
             return muster::result_dtype(leaf.dtype, at(0).op) == leaf.dtype;
           });
  }

  /// The reduction of `inputs`, which are all ranks' inputs of that index, for one contributor.
  Given reduced(const Column& inputs, std::size_t contributor, std::size_t index = 0) {
    if (is_identity(inputs)) return input(0, index);
    return made(over_devices() ? work_->reduced_on(inputs, target(contributor)) : work_->folded(inputs));
  }

  void refuse_without_root() {
    error_ = Error(Code::peer_lost, fmt::format("{} has no input: its root, rank {}, gave none", op_.name, at(0).root),
                   "call it again with a root that is there", {at(0).root});
  }

  const Op& op_;
  Sharing sharing_;
  Takers takers_;
  Kind kind_;
  Plan& plan_;
  std::vector<Device> homes_;  ///< of each contributor, if results are made
  Devices devices_;
  Extent extent_;
  std::map<std::pair<std::size_t, std::size_t>, Given> copies_;  ///< of inputs, by contributor and index
  std::optional<PlanWork> work_;
  std::optional<Error> error_;
};

}  // namespace

std::uint64_t Plan::own_bytes() const {
  std::uint64_t bytes = work.inputs.size() * sizeof(work.inputs[0]) + work.folds.size() * sizeof(Fold) +
                        work.copies.size() * sizeof(CopyBytes) + work.exchanges.size() * sizeof(Exchange) +
                        work.parts.size() * sizeof(ExchangePart) + work.transfers.size() * sizeof(Transfer) +
                        work.last_folds.size() * sizeof(Fold) + work.last_inputs.size() * sizeof(Source);
  for (const PlannedOutput& output : outputs) bytes += bytes_of(output.manifest);
  for (const Gives& each : gives) bytes += each.size() * sizeof(Given);
  return bytes;
}

Result<PlanExtent> measure_plan(const Op& op, Sharing sharing, Takers takers) {
  MUSTER_ASSERT(!op.contributions.empty(), "an op has contributors");
  Plan none;
  Planner planner(op, sharing, takers, none);
  if (auto error = planner.measure()) return std::move(*error);
  return planner.measured();
}

Result<Plan> make_plan(const Op& op, Sharing sharing, Takers takers) {
  MUSTER_ASSERT(!op.contributions.empty(), "an op has contributors");
  // The plan is filled in where it will stay, as moving it is not cheap.
  Result<Plan> plan(std::in_place);
  if (auto error = Planner(op, sharing, takers, *plan).run()) plan = std::move(*error);
  return plan;
}

}  // namespace musterd
