// Faults of today that the walk stays away from, one constant each. Whoever mends a fault deletes its constant, and the
// walk goes there from then on.
#pragma once

namespace musterd::testing::known {

/// A newcomer's op that expires before the next epoch takes no place in that epoch, and its next op comes one too
/// early.
inline constexpr bool expired_early_op_takes_no_place = true;
/// Inputs that end with their job on the lanes end after the node has looked for what ended: their makers, and requests
/// that wait for memory, hear of it at the next event only.
inline constexpr bool ends_with_a_job_go_unnoticed = true;

}  // namespace musterd::testing::known
