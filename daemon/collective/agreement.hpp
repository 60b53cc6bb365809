// What each rank may give to a collective, and what the ranks of one op must agree on. Each contribution is checked
// when it comes in, so that a mistake is reported at once and not after a timeout. Pure.
#pragma once

#include <optional>
#include <span>
#include <string>

#include <muster/result.hpp>

#include "collective/contribution.hpp"

namespace musterd {

/// True for kinds that are between two ranks: send and recv.
[[nodiscard]] bool is_pairwise(muster::ipc::Kind kind);
/// True for kinds in which one rank has a special role.
[[nodiscard]] bool has_root(muster::ipc::Kind kind);
/// True for kinds that apply a reduce op.
[[nodiscard]] bool is_reduction(muster::ipc::Kind kind);

/// Invalid if this contribution can't work whatever the other ranks give: a root out of range, a wrong number of
/// inputs, a reduce op that has no meaning for a dtype, shapes that can't be stacked or joined.
[[nodiscard]] std::optional<muster::Error> check_contribution(const std::string& op_name, int world_size,
                                                              const Contribution& contribution);

/// Mismatch if the newcomer differs from the contributions that are present already, which agree. The message names the
/// op, and each field with both values and the ranks that gave them. Error::ranks are the ranks on the smaller side, or
/// both sides if they are equally large.
[[nodiscard]] std::optional<muster::Error> check_agreement(const std::string& op_name,
                                                           std::span<const Contribution> present,
                                                           const Contribution& newcomer);

/// Invalid if so many ranks that give as much as this one are too much for one op, whatever the others give. Plans are
/// limited in size (plan.hpp), and the inputs of an op are let go all at once.
[[nodiscard]] std::optional<muster::Error> check_amount(const std::string& op_name, std::size_t ranks,
                                                        const Contribution& contribution);

}  // namespace musterd
