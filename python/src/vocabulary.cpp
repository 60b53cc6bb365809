// Names and limits that Python shares with C++; each name has its number.
#include <nanobind/stl/optional.h>

#include <muster/ipc/byte_count.hpp>
#include <muster/ipc/records.hpp>
#include <muster/ipc/structure.hpp>

#include "bindings.hpp"
#include "work.hpp"

namespace muster::python {

namespace {

nb::str as_str(std::string_view text) { return nb::str(text.data(), text.size()); }

}  // namespace

void bind_vocabulary(nb::module_& module) {
  nb::dict kinds, reduce_ops, on_loss;
  for (std::size_t each = 0; each < ipc::kind_count; ++each) kinds[as_str(name(static_cast<ipc::Kind>(each)))] = each;
  for (std::size_t each = 0; each < reduce_op_count; ++each)
    reduce_ops[as_str(name(static_cast<ReduceOp>(each)))] = each;
  for (const auto policy : {OnLoss::fail, OnLoss::shrink, OnLoss::wait})
    on_loss[as_str(name(policy))] = static_cast<int>(policy);
  nb::list codes;
  for (std::size_t each = 1; each <= code_count; ++each) codes.append(as_str(name(static_cast<Code>(each))));
  module.attr("codes") = codes;
  module.attr("kinds") = kinds;
  module.attr("reduce_ops") = reduce_ops;
  module.attr("on_loss") = on_loss;
  module.attr("group_timeout_s") = std::chrono::duration<double>(JoinOptions().timeout).count();
  module.attr("constant_bytes_max") = ipc::constant_bytes_max;
  module.def("result_dtype", [](const std::string& dtype, int op) -> std::optional<std::string> {
    const auto known = dtype_named(dtype);
    const auto result = known ? result_dtype(*known, op_from(op)) : std::nullopt;
    return result ? std::optional(std::string(name(*result))) : std::nullopt;
  });
  module.def("bytes_text", [](std::uint64_t bytes) { return ipc::bytes_text(bytes); });
  module.def("parse_bytes", [](const std::string& text) { return value_or_raise(ipc::parse_bytes(text)); });
  module.def("over_text", &ipc::over_text);
}

}  // namespace muster::python
