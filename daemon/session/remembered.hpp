// The outcomes of ops that succeeded, while a group's history has them. They hold the ops' objects.
#pragma once

#include <boost/intrusive/list.hpp>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <muster/ipc/records.hpp>
#include <muster/ipc/small_vector.hpp>

#include "memory/ledger.hpp"
#include "store/store.hpp"

namespace musterd {

class History;
struct HistoryTable;

template <class Tag>
using RememberedHook = boost::intrusive::list_base_hook<boost::intrusive::tag<Tag>,
                                                        boost::intrusive::link_mode<boost::intrusive::auto_unlink>>;
using RememberedOfAll = RememberedHook<struct OfAllTag>;
using RememberedOfUser = RememberedHook<struct OfUserTag>;
using RememberedOfGroup = RememberedHook<struct OfGroupTag>;

struct Remembered : RememberedOfAll, RememberedOfUser, RememberedOfGroup {
  Remembered() = default;
  Remembered(const Remembered&) = delete;
  Remembered& operator=(const Remembered&) = delete;
  /// Takes itself out of the sums of its history.
  ~Remembered();

  muster::ipc::Kind kind = muster::ipc::Kind::barrier;
  muster::ReduceOp op = muster::ReduceOp::sum;
  muster::ipc::Layout layout = muster::ipc::Layout::parts;
  int root = 0;
  std::vector<int> ranks;          ///< who contributed, in order
  std::vector<ObjectPtr> objects;  ///< that the op gave, each once
  /// For each contributor, or one for all: which of the objects it got.
  std::vector<muster::ipc::SmallVector<std::uint32_t, 1>> given;
  std::uint64_t bytes = 0;      ///< of memory that goes with the objects: their wholes', and large descriptions
  std::uint64_t heap_kept = 0;  ///< with what the objects take of the heap
  Charge heap;
  HistoryTable* table = nullptr;
  std::string_view key;        ///< in the table
  History* history = nullptr;  ///< null until it counts
};

/// By key.
using RememberedOps = std::map<std::string, Remembered, std::less<>>;

/// What one epoch of a group remembers.
struct HistoryTable : boost::intrusive::list_base_hook<> {
  UserId user = 0;
  Charge heap;  ///< for the table itself
  RememberedOps ops;
  /// The oldest first.
  boost::intrusive::list<Remembered, boost::intrusive::base_hook<RememberedOfGroup>,
                         boost::intrusive::constant_time_size<false>>
      by_age;
  std::uint64_t bytes = 0;
};
/// A table that ends may hold very many objects, so its history destroys it in pieces.
struct EndTable {
  History* history = nullptr;
  void operator()(HistoryTable* table) const noexcept;
};
using HistoryTablePtr = std::unique_ptr<HistoryTable, EndTable>;

}  // namespace musterd
