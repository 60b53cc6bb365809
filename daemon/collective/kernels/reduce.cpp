// Finds the family of kernels for a dtype and op: one look-up in a table.
#include "daemon/collective/kernels/reduce.hpp"

#include <array>
#include <cstddef>
#include <cstdlib>

#include "daemon/collective/kernels/families.hpp"

namespace musterd::kernels {
namespace {

using muster::DType;
using muster::ReduceOp;
using Family = void (*)(const Reduce&);

constexpr Family family_of(DType dtype, ReduceOp op) {
  const auto result = muster::result_dtype(dtype, op);
  if (!result) return nullptr;
  const bool is_discrete = dtype == DType::bool_ || muster::is_integer(dtype);
  if (op == ReduceOp::land || op == ReduceOp::lor) return reduce_logic;
  if (op == ReduceOp::band || op == ReduceOp::bor || op == ReduceOp::bxor) return reduce_logic;
  if (is_discrete && *result != dtype) return reduce_widening;
  if (dtype == DType::bool_) return reduce_logic;
  if (is_discrete) return reduce_integers;
  return dtype == DType::float16 || dtype == DType::bfloat16 ? reduce_halves : reduce_floats;
}

using Table = std::array<std::array<Family, muster::reduce_op_count>, muster::dtype_count>;

constexpr Table families = [] {
  Table table{};
  for (std::size_t dtype = 0; dtype < muster::dtype_count; ++dtype) {
    for (std::size_t op = 0; op < muster::reduce_op_count; ++op)
      table[dtype][op] = family_of(static_cast<DType>(dtype), static_cast<ReduceOp>(op));
  }
  return table;
}();

}  // namespace

void reduce(const Reduce& call) {
  const Family family = families.at(static_cast<std::size_t>(call.dtype)).at(static_cast<std::size_t>(call.op));
  if (family == nullptr || call.inputs.empty()) std::abort();
  if (!call.prefixes.empty() && call.prefixes.size() != call.inputs.size()) std::abort();
  if (call.count != 0) family(call);
}

}  // namespace musterd::kernels
