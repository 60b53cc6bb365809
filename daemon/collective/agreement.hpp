// What each rank may give to a collective, and on what the ranks of one op must agree.
// Asked as each contribution comes in, so that a mistake is told at once and not after a timeout. Pure.
#pragma once

#include <optional>
#include <span>
#include <string>

#include <muster/result.hpp>

#include "collective/contribution.hpp"

namespace musterd {

/// True for kinds that two ranks do with each other: send and recv.
[[nodiscard]] bool is_pairwise(muster::ipc::Kind kind);
/// True for kinds with one rank in a part of its own.
[[nodiscard]] bool has_root(muster::ipc::Kind kind);
/// True for kinds that apply a reduce op.
[[nodiscard]] bool is_reduction(muster::ipc::Kind kind);

/// Invalid if this contribution can't work whatever the other ranks give: a root out of range, a wrong number of
/// inputs, a reduce op that has no meaning for a dtype, shapes that can't be stacked or joined.
[[nodiscard]] std::optional<muster::Error> check_contribution(const std::string& op_name, int world_size,
                                                              const Contribution& contribution);

/// Mismatch if the newcomer differs from those who are there already (and agree). Names the op, and each field with
/// both values and the ranks that gave them. Error::ranks are those on the smaller side; both sides if equally many.
[[nodiscard]] std::optional<muster::Error> check_agreement(const std::string& op_name,
                                                           std::span<const Contribution> present,
                                                           const Contribution& newcomer);

/// Why so many ranks that give as much as this one can't come to an op, whoever else does: what plans may amount to is
/// bounded (plan.hpp), and what an op is given is let go in one go.
[[nodiscard]] std::optional<muster::Error> check_amount(const std::string& op_name, std::size_t ranks,
                                                        const Contribution& contribution);

}  // namespace musterd
