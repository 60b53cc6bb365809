#include "owners.hpp"

#include <boost/unordered/unordered_flat_map.hpp>

#include <algorithm>
#include <utility>

#include "device_array.hpp"
#include "references.hpp"
#include "writable.hpp"

namespace muster::python {

namespace {

bool is_container(const PyTypeObject* type) {
  static const nb::object defaultdict = nb::module_::import_("collections").attr("defaultdict");
  return type == &PyList_Type || type == &PyTuple_Type || type == &PyDict_Type || type == &PyODict_Type ||
         type == reinterpret_cast<PyTypeObject*>(defaultdict.ptr());
}

/// Whether instances only hold things: when they end, no Python code runs that could revive their contents, and they
/// hold exactly the contents that they show.
bool only_holds(const PyTypeObject* type) {
  if (is_container(type)) return true;
  const PyTypeObject* base = builtin_base(type);
  if (!base || base == type || !(base == &PyBaseObject_Type || is_container(base))) return false;
  const bool iterates = base == &PyBaseObject_Type || type->tp_iter == base->tp_iter;
  return !type->tp_finalize && !type->tp_del && type->tp_getattro == PyObject_GenericGetAttr && iterates;
}

bool has_weak_references(PyObject* object) {
  const Py_ssize_t offset = Py_TYPE(object)->tp_weaklistoffset;
  return offset != 0 && *reinterpret_cast<PyObject**>(reinterpret_cast<char*>(object) + offset) != nullptr;
}

PyArrayObject* as_array(PyObject* object) { return reinterpret_cast<PyArrayObject*>(object); }

/// Whether everybody who can write to the array's memory can be counted. That of muster.empty belongs to one array, and
/// all who use it refer to one of the two. With any other base it is impossible: a memoryview, a DLPack capsule,
/// NumPy's helper of as_strided, or an instance of a subclass may still write there, or write when it ends.
bool memory_is_visible(PyArrayObject* array) {
  PyObject* base = PyArray_BASE(array);
  if (PyArray_CHKFLAGS(array, NPY_ARRAY_WRITEBACKIFCOPY)) return false;
  if (base && nb::isinstance<Writable>(base)) return Py_REFCNT(base) == 1;
  return base ? PyArray_CheckExact(base) : PyArray_CHKFLAGS(array, NPY_ARRAY_OWNDATA);
}

/// The arrays and containers of a tree, and which of them hold which.
class Holders {
 public:
  Holders(PyObject* root, const Tree& tree) {
    for (const auto& leaf : tree.leaves)
      if (leaf.holds) add_foreign(leaf);
    meet(root);
  }

  /// Follows all references that can be reached.
  void explore() {
    for (std::size_t at = 0; at < nodes_.size(); ++at) {
      nodes_[at].first_held = held_.size();
      PyObject* object = nodes_[at].object;
      const auto holds = [&](PyObject* held) {
        if (const auto node = meet(held); node != none) {
          ++nodes_[node].explained;
          held_.push_back(node);
        }
        return Visit::go_on;
      };
      if (const auto foreign = foreign_.find(object); foreign != foreign_.end())
        for (PyObject* held : foreign->second) holds(held);
      else if (!PyArray_CheckExact(object)) for_each_held(object, holds);
      else if (PyObject* base = PyArray_BASE(as_array(object))) holds(base);
    }
  }

  void explain(PyObject* object, Py_ssize_t references) {
    if (const auto found = indices_.find(object); found != indices_.end())
      nodes_[found->second].explained += references;
  }

  /// Finds what somebody outside the tree can reach: what he holds, and everything reachable from there.
  void find_shared() {
    std::vector<std::size_t> left;
    const auto share = [&](std::size_t node) {
      if (!std::exchange(nodes_[node].shared, true)) left.push_back(node);
    };
    for (std::size_t node = 0; node < nodes_.size(); ++node)
      if (!is_accounted_for(nodes_[node])) share(node);
    while (!left.empty()) {
      const auto node = left.back();
      left.pop_back();
      const auto last = node + 1 < nodes_.size() ? nodes_[node + 1].first_held : held_.size();
      for (auto at = nodes_[node].first_held; at < last; ++at) share(held_[at]);
    }
  }

  /// The references that a leaf itself has.
  void explain(const FoundLeaf& leaf) {
    explain(leaf.array.ptr(), 1);
    if (!leaf.holds) return;
    explain(leaf.on_gpu->other.ptr(), 1);
    for (const auto& [holder, held] : *leaf.holds) {
      explain(holder.ptr(), 1);
      explain(held.ptr(), 1);
    }
  }

  [[nodiscard]] bool is_sole(const FoundLeaf& leaf) const {
    if (!leaf.on_gpu || !leaf.on_gpu->other.is_valid()) return is_sole(leaf.array.ptr());
    if (!leaf.holds) return false;
    const auto is_shared = [&](const nb::object& object) { return !is_sole(object.ptr()); };
    return !is_shared(leaf.on_gpu->other) &&
           std::ranges::none_of(*leaf.holds, [&](const auto& pair) { return is_shared(pair.second); });
  }

 private:
  /// Whether nobody outside the tree can reach this array or the arrays that it is a view of.
  [[nodiscard]] bool is_sole(PyObject* array) const {
    while (array) {
      const auto found = indices_.find(array);
      if (found == indices_.end() || nodes_[found->second].shared) return false;
      PyObject* const base = PyArray_CheckExact(array) ? PyArray_BASE(as_array(array)) : nullptr;
      array = base && nb::isinstance<Writable>(base) ? nullptr : base;
    }
    return true;
  }

  static constexpr auto none = static_cast<std::size_t>(-1);
  struct Node {
    PyObject* object;
    Py_ssize_t explained = 0;    ///< references that come from the tree or from us
    std::size_t first_held = 0;  ///< index in held_; the next node's entries come after
    bool shared = false;
  };

  void add_foreign(const FoundLeaf& leaf) {
    foreign_[leaf.on_gpu->other.ptr()];
    for (const auto& [holder, held] : *leaf.holds) {
      foreign_[held.ptr()];
      auto& known = foreign_[holder.ptr()];
      if (std::ranges::find(known, held.ptr()) == known.end()) known.push_back(held.ptr());
    }
  }

  std::size_t meet(PyObject* object) {
    if (!PyArray_CheckExact(object) && !only_holds(Py_TYPE(object)) && !device_array(object) &&
        !foreign_.contains(object))
      return none;
    const auto [found, is_new] = indices_.try_emplace(object, nodes_.size());
    if (is_new) nodes_.push_back({object});
    return found->second;
  }

  [[nodiscard]] static bool is_accounted_for(const Node& node) {
    return Py_REFCNT(node.object) == node.explained && !has_weak_references(node.object) &&
           (!PyArray_CheckExact(node.object) || memory_is_visible(as_array(node.object)));
  }

  std::vector<Node> nodes_;
  std::vector<std::size_t> held_;
  boost::unordered_flat_map<PyObject*, std::size_t> indices_;
  /// Objects of other libraries, and what each holds.
  boost::unordered_flat_map<PyObject*, std::vector<PyObject*>> foreign_;
};

}  // namespace

std::vector<bool> sole_owners(const Tree& tree, nb::handle root, Py_ssize_t root_references) {
  Holders holders(root.ptr(), tree);
  holders.explore();
  holders.explain(root.ptr(), root_references);
  for (const auto& leaf : tree.leaves) holders.explain(leaf);
  holders.find_shared();
  std::vector<bool> sole;
  sole.reserve(tree.leaves.size());
  for (const auto& leaf : tree.leaves) sole.push_back(leaf.as_given && holders.is_sole(leaf));
  return sole;
}

}  // namespace muster::python
