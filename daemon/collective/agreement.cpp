#include "collective/agreement.hpp"

#include <algorithm>
#include <bit>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <muster/ipc/structure.hpp>

#include "collective/messages.hpp"
#include "collective/plan.hpp"

namespace musterd {

using muster::Code;
using muster::Error;
using muster::ipc::Kind;
using muster::ipc::Layout;
using muster::ipc::Leaf;
using muster::ipc::Manifest;
using muster::ipc::Outline;

namespace {

constexpr std::size_t fields_named_max = 4;
/// Messages about larger structures number the leaves instead of naming them, as everybody waits while names are looked
/// up.
constexpr std::size_t outline_nodes_max = 4096;
constexpr std::size_t structure_shown_max = 120;

/// What must be equal between the inputs of two ranks.
enum class Shapes : std::uint8_t {
  free,   ///< nothing: each rank chooses its own
  tails,  ///< dtypes, and shapes except for axis 0
  equal,  ///< dtypes and shapes
};

Shapes shapes_of(const Contribution& contribution) {
  if (is_reduction(contribution.kind)) return Shapes::equal;
  switch (contribution.layout) {
    case Layout::parts: return Shapes::free;
    case Layout::stack: return Shapes::equal;
    case Layout::concat: return Shapes::tails;
  }
  return Shapes::free;
}

bool has_layout(Kind kind) { return kind == Kind::allgather || kind == Kind::gather || kind == Kind::all_to_all; }

std::string_view layout_name(Layout layout) {
  switch (layout) {
    case Layout::parts: return "parts";
    case Layout::stack: return "stack";
    case Layout::concat: return "concat";
  }
  return "unknown";
}

std::string shape_text(std::span<const std::int64_t> shape) {
  return fmt::format("({}{})", fmt::join(shape, ", "), shape.size() == 1 ? "," : "");
}

/// A field in which two ranks differ, with both values as text.
struct Difference {
  std::string field;
  std::string present;
  std::string newcomer;
};
struct Differences {
  std::vector<Difference> named;
  std::size_t count = 0;
  bool of_structure = false;
};

std::string_view hint_for(const Differences& differences, bool by_order) {
  if (by_order)
    return "every rank must call the same collectives in the same order; where threads make order unsure, match calls "
           "by key=";
  if (differences.of_structure)
    return "give the same containers, keys and constants on every rank; allgather() takes values that differ";
  return "give the same on every rank";
}

bool same_shape(std::span<const std::int64_t> a, std::span<const std::int64_t> b, Shapes rule) {
  if (a.size() != b.size()) return false;
  const std::size_t skipped = rule == Shapes::tails && !a.empty() ? 1 : 0;
  return std::equal(a.begin() + static_cast<std::ptrdiff_t>(skipped), a.end(),
                    b.begin() + static_cast<std::ptrdiff_t>(skipped));
}

/// Whether the two agree in everything that matters to ranks of one op. Usually they do. This check is quick, as
/// everybody waits while bundles of thousands of leaves are compared.
bool alike(const Manifest& a, const Manifest& b) {
  if (&a == &b) return true;
  if (a.leaves.size() != b.leaves.size() || a.structure != b.structure) return false;
  if (!std::equal(a.dims.begin(), a.dims.end(), b.dims.begin(), b.dims.end())) return false;
  return std::equal(a.leaves.begin(), a.leaves.end(), b.leaves.begin(), [](const Leaf& x, const Leaf& y) {
    return x.dtype == y.dtype && x.ndim == y.ndim && x.first_dim == y.first_dim && x.device == y.device;
  });
}

std::optional<Outline> outline_of(std::string_view structure) {
  return muster::ipc::outline_of(structure, outline_nodes_max);
}

/// Nothing for several leaves without a structure: these are C++ bundles, whose leaves have no names.
std::optional<Outline> outline_of(const Manifest& manifest) {
  const bool unnamed = manifest.structure.empty() && manifest.leaves.size() > 1;
  return unnamed ? std::nullopt : outline_of(std::string_view(manifest.structure));
}

class Comparison {
 public:
  Comparison(const Contribution& present, const Contribution& newcomer) : present_(present), newcomer_(newcomer) {}

  Differences run() {
    if (is_pairwise(present_.kind)) return {};
    if (present_.kind != newcomer_.kind) {
      add("kind", std::string(name(present_.kind)), std::string(name(newcomer_.kind)));
      return std::move(differences_);
    }
    if (is_reduction(present_.kind) && present_.op != newcomer_.op)
      add("reduce op", std::string(name(present_.op)), std::string(name(newcomer_.op)));
    if (has_root(present_.kind) && present_.root != newcomer_.root)
      add("root", std::to_string(present_.root), std::to_string(newcomer_.root));
    if (has_layout(present_.kind) && present_.layout != newcomer_.layout)
      add("layout", std::string(layout_name(present_.layout)), std::string(layout_name(newcomer_.layout)));
    if (is_reduction(present_.kind) || has_layout(present_.kind)) compare_inputs();
    return std::move(differences_);
  }

 private:
  void add(std::string field, std::string present, std::string newcomer) {
    if (++differences_.count > fields_named_max) return;
    differences_.named.push_back({std::move(field), std::move(present), std::move(newcomer)});
  }

  /// The same for a leaf. It makes the texts only if they will be shown, as thousands of leaves may differ.
  template <class Value>
  void add_of_leaf(const char* field, std::size_t leaf, const std::optional<Outline>& outline,
                   const std::string& of_input, Value present, Value newcomer) {
    if (differences_.count >= fields_named_max) {
      ++differences_.count;
      return;
    }
    add(field + of_leaf(leaf, outline) + of_input, text(present), text(newcomer));
  }

  /// " of layer2.w"; nothing if the value is one array.
  static std::string of_leaf(std::size_t leaf, const std::optional<Outline>& outline) {
    const auto path = outline ? path_of_leaf(*outline, leaf) : std::nullopt;
    if (!path) return fmt::format(" of leaf {}", leaf);
    return path->empty() ? "" : " of " + *path;
  }

  static std::string text(muster::DType dtype) { return std::string(name(dtype)); }
  static std::string text(std::span<const std::int64_t> shape) { return shape_text(shape); }
  static std::string text(muster::Device device) { return name(device); }

  void compare_inputs() {
    if (present_.inputs.size() != newcomer_.inputs.size())
      return add("number of inputs", std::to_string(present_.inputs.size()), std::to_string(newcomer_.inputs.size()));
    const Shapes rule = shapes_of(present_);
    if (rule == Shapes::free) return;
    for (std::size_t input = 0; input < present_.inputs.size(); ++input)
      compare_manifests(input, *present_.inputs[input].manifest, *newcomer_.inputs[input].manifest, rule);
  }

  void compare_manifests(std::size_t input, const Manifest& a, const Manifest& b, Shapes rule) {
    if (alike(a, b)) return;
    const std::string of_input = present_.inputs.size() > 1 ? fmt::format(" of input {}", input) : "";
    const auto outline = outline_of(a);
    // Without this check, leaves of the same shape but different names would be reduced with each other.
    if (is_reduction(present_.kind) && a.structure != b.structure)
      return compare_structures(outline, outline_of(b.structure), of_input);
    if (a.leaves.size() != b.leaves.size())
      return add("number of leaves" + of_input, std::to_string(a.leaves.size()), std::to_string(b.leaves.size()));
    for (std::size_t leaf = 0; leaf < a.leaves.size(); ++leaf) {
      const Leaf& x = a.leaves[leaf];
      const Leaf& y = b.leaves[leaf];
      if (x.dtype != y.dtype) add_of_leaf("dtype", leaf, outline, of_input, x.dtype, y.dtype);
      if (x.device.is_host() != y.device.is_host()) add_of_leaf("device", leaf, outline, of_input, x.device, y.device);
      if (!same_shape(a.shape(x), b.shape(y), rule))
        add_of_leaf("shape", leaf, outline, of_input, a.shape(x), b.shape(y));
    }
  }

  /// Adds the first difference between the structures, and then both structures.
  void compare_structures(const std::optional<Outline>& a, const std::optional<Outline>& b,
                          const std::string& of_input) {
    differences_.of_structure = true;
    const auto difference = a && b ? difference_between(*a, *b) : std::nullopt;
    if (!difference) return add("structure" + of_input, "one that is too large to show", "another one");
    add((difference->path.empty() ? "the value" : difference->path) + of_input, difference->first, difference->second);
    if (a->letter == muster::ipc::node::leaf || b->letter == muster::ipc::node::leaf) return;
    add("structure" + of_input, text_of(*a, structure_shown_max), text_of(*b, structure_shown_max));
  }

  const Contribution& present_;
  const Contribution& newcomer_;
  Differences differences_;
};

/// How many inputs the rank must give. Nothing if its inputs are not looked at, so that any number will do.
std::optional<std::size_t> inputs_due(const Contribution& contribution, int world_size) {
  const bool root = contribution.rank == contribution.root;
  switch (contribution.kind) {
    case Kind::barrier:
    case Kind::recv:
    case Kind::split:
    case Kind::reform: return 0;
    case Kind::allreduce:
    case Kind::reduce:
    case Kind::scan:
    case Kind::allgather:
    case Kind::gather:
    case Kind::send: return 1;
    case Kind::broadcast: return root ? std::optional<std::size_t>(1) : std::nullopt;
    case Kind::scatter: return root ? std::optional(static_cast<std::size_t>(world_size)) : std::nullopt;
    case Kind::reduce_scatter:
    case Kind::all_to_all: return static_cast<std::size_t>(world_size);
  }
  return std::nullopt;
}

/// What is wrong with a call, as the end of the sentence "rank 1 gave it ...", and what to do about it.
struct Wrong {
  std::string what;
  std::string hint;
};

std::string dtype_hint(muster::DType dtype) {
  if (is_complex(dtype))
    return "complex numbers have no order and no bits: reduce x.real and x.imag, or use sum or mean";
  return "bitwise ops take bool and integers: convert the array with x.astype(), or use another op";
}

/// Checks one array of a contribution.
std::optional<Wrong> check_leaf(const Contribution& contribution, muster::DType dtype, std::size_t ndim) {
  if (is_reduction(contribution.kind) && !muster::result_dtype(dtype, contribution.op))
    return Wrong{fmt::format("of dtype {}, for which {} has no meaning", name(dtype), name(contribution.op)),
                 dtype_hint(dtype)};
  if (!has_layout(contribution.kind)) return std::nullopt;
  if (contribution.layout == Layout::stack && ndim >= muster::ipc::ndim_max)
    return Wrong{fmt::format("of {} dimensions, which leaves none for stacking", ndim),
                 fmt::format("give an array of at most {} dimensions: x.reshape()", muster::ipc::ndim_max - 1)};
  if (contribution.layout == Layout::concat && ndim == 0)
    return Wrong{"of no dimensions, which can't be joined along axis 0", "give np.atleast_1d(x)"};
  return std::nullopt;
}

/// "an array", "an array at layer2.w"
std::string array_text(const Manifest& manifest, std::size_t leaf) {
  if (manifest.leaves.size() == 1 && manifest.structure.empty()) return "an array";
  const auto outline = outline_of(manifest);
  const auto path = outline ? path_of_leaf(*outline, leaf) : std::nullopt;
  if (!path) return fmt::format("an array (leaf {})", leaf);
  return path->empty() ? "an array" : "an array at " + *path;
}

/// Whether every leaf works. It asks once for each dtype, with the fewest and the most dimensions of any leaf.
bool leaves_work(const Contribution& contribution, const Manifest& manifest) {
  std::uint32_t dtypes = 0;
  std::size_t fewest = muster::ipc::ndim_max;
  std::size_t most = 0;
  for (const Leaf& leaf : manifest.leaves) {
    dtypes |= std::uint32_t{1} << static_cast<unsigned>(leaf.dtype);
    fewest = std::min<std::size_t>(fewest, leaf.ndim);
    most = std::max<std::size_t>(most, leaf.ndim);
  }
  for (; dtypes != 0; dtypes &= dtypes - 1) {
    const auto dtype = static_cast<muster::DType>(std::countr_zero(dtypes));
    if (check_leaf(contribution, dtype, fewest) || check_leaf(contribution, dtype, most)) return false;
  }
  return true;
}

std::optional<Wrong> check_leaves(const Contribution& contribution) {
  if (!is_reduction(contribution.kind) && (!has_layout(contribution.kind) || contribution.layout == Layout::parts))
    return std::nullopt;
  constexpr std::size_t few = 4;
  for (const Input& input : contribution.inputs) {
    const auto& leaves = input.manifest->leaves;
    if (leaves.size() > few && leaves_work(contribution, *input.manifest)) continue;
    for (const Leaf& leaf : leaves)
      if (auto wrong = check_leaf(contribution, leaf.dtype, leaf.ndim)) {
        const auto index = static_cast<std::size_t>(&leaf - leaves.data());
        return Wrong{fmt::format("{} {}", array_text(*input.manifest, index), wrong->what), wrong->hint};
      }
  }
  return std::nullopt;
}

std::optional<Wrong> check_layout(const Contribution& contribution) {
  const bool gathers = contribution.kind == Kind::allgather || contribution.kind == Kind::gather;
  if (gathers && contribution.layout == Layout::concat)
    return Wrong{"layout concat, but its parts can only be stacked", "use layout stack or parts"};
  if (contribution.kind == Kind::all_to_all && contribution.layout == Layout::stack)
    return Wrong{"layout stack, but its parts can only be joined", "use layout concat or parts"};
  return std::nullopt;
}

std::optional<Wrong> wrong_in(const Contribution& contribution, int world_size) {
  const bool names_rank = has_root(contribution.kind) || is_pairwise(contribution.kind);
  if (names_rank && (contribution.root < 0 || contribution.root >= world_size))
    return Wrong{fmt::format("{} {}, which is out of range: world_size is {}",
                             is_pairwise(contribution.kind) ? "peer" : "root", contribution.root, world_size),
                 "ranks run from 0 to world_size - 1"};
  const auto due = inputs_due(contribution, world_size);
  if (due && *due != contribution.inputs.size())
    return Wrong{fmt::format("{} inputs instead of {}", contribution.inputs.size(), *due),
                 *due == 1 ? "give one value" : "give one value for each rank"};
  if (auto wrong = check_layout(contribution)) return wrong;
  return check_leaves(contribution);
}

}  // namespace

bool is_pairwise(Kind kind) { return kind == Kind::send || kind == Kind::recv; }

bool has_root(Kind kind) {
  return kind == Kind::reduce || kind == Kind::broadcast || kind == Kind::gather || kind == Kind::scatter;
}

bool is_reduction(Kind kind) {
  return kind == Kind::allreduce || kind == Kind::reduce || kind == Kind::scan || kind == Kind::reduce_scatter;
}

std::optional<Error> check_contribution(const std::string& op_name, int world_size, const Contribution& contribution) {
  auto wrong = wrong_in(contribution, world_size);
  if (!wrong) return std::nullopt;
  return Error(Code::invalid, fmt::format("{} can't work: rank {} gave it {}", op_name, contribution.rank, wrong->what),
               wrong->hint + "; the op has failed on every rank", {contribution.rank});
}

std::optional<Error> check_amount(const std::string& op_name, std::size_t ranks, const Contribution& contribution) {
  constexpr auto fewer = "use fewer ranks, or give one array in place of one for each rank";
  if (contribution.kind != Kind::all_to_all && contribution.kind != Kind::reduce_scatter) return std::nullopt;
  const bool in_parts = contribution.kind == Kind::all_to_all && contribution.layout != Layout::concat;
  const auto refused = [&](const std::string& what, std::size_t amount, std::size_t max) {
    return Error(Code::invalid,
                 fmt::format("{} can't work: {} of its ranks would {} {} objects of at most {}", op_name, ranks, what,
                             amount, max),
                 fewer, {contribution.rank});
  };
  const std::size_t given = ranks * contribution.inputs.size();
  if (given > plan_limits.arrays_read) return refused("give it", given, plan_limits.arrays_read);
  if (in_parts && ranks * ranks > plan_limits.objects_given)
    return refused("get", ranks * ranks, plan_limits.objects_given);
  return std::nullopt;
}

std::optional<Error> check_agreement(const std::string& op_name, std::span<const Contribution> present,
                                     const Contribution& newcomer) {
  if (present.empty()) return std::nullopt;
  // Comparing with the first contribution is enough for all kinds: in a broadcast or scatter only the root gives
  // inputs.
  const auto differences = Comparison(present.front(), newcomer).run();
  if (differences.count == 0) return std::nullopt;

  std::vector<int> there;
  for (const Contribution& contribution : present) there.push_back(contribution.rank);
  std::sort(there.begin(), there.end());
  std::string message = fmt::format("ranks disagree on {}: ", op_name);
  for (const Difference& difference : differences.named) {
    if (&difference != &differences.named.front()) message += "; ";
    message += fmt::format("{} is {} on {} and {} on rank {}", difference.field, difference.present, ranks_text(there),
                           difference.newcomer, newcomer.rank);
  }
  if (differences.count > differences.named.size())
    message += fmt::format("; and {} more fields", differences.count - differences.named.size());

  std::vector<int> meant{newcomer.rank};
  if (there.size() == 1) {
    meant.push_back(there.front());
    std::sort(meant.begin(), meant.end());
  }
  const bool by_order = differences.named.front().field == "kind" && newcomer.key.empty();
  return Error(Code::mismatch, std::move(message), std::string(hint_for(differences, by_order)), std::move(meant));
}

}  // namespace musterd
