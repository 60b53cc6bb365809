#include <muster/work.hpp>

#include <algorithm>
#include <optional>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <muster/ipc/text.hpp>

#include "base/bounded_time.hpp"
#include "core/connection.hpp"
#include "core/requests.hpp"
#include "core/protocol/seat.hpp"

namespace muster {

namespace wire = ipc::wire;
using std::chrono::steady_clock;

namespace {

/// After the op's own deadline the daemon needs a moment to report the error.
constexpr auto grace = std::chrono::milliseconds(100);
/// A daemon that has much to do but answers gets more time: every rank should get the same outcome.
constexpr auto grace_while_it_answers = std::chrono::seconds(5);
/// A stopped daemon must not make a bounded wait a long one.
constexpr auto question_timeout = std::chrono::milliseconds(100);

/// Returns the ranks that have not contributed. Nothing if the daemon does not answer.
std::optional<std::vector<int>> missing_ranks(detail::WorkState& state) {
  auto packet = detail::ask(*state.connection, wire::Body_MissingQuery, question_timeout,
                            [&](auto& fbb) { return wire::CreateMissingQuery(fbb, state.id.value).Union(); });
  if (!packet) return std::nullopt;
  const auto* body = wire::GetFrame(packet->bytes.data())->body_as_Missing();
  if (!body || !body->ranks()) return std::vector<int>();
  return std::vector<int>(body->ranks()->begin(), body->ranks()->end());
}

/// Who gave no time has not waited, whatever it took to look.
std::string not_over(detail::WorkState& state, Timeout timeout, std::chrono::nanoseconds waited) {
  if (timeout && *timeout < std::chrono::milliseconds(1)) return state.what() + " is not over yet";
  return fmt::format("{} is not over after {}", state.what(), ipc::seconds_text(waited));
}

Error still_waiting(std::string message, const std::vector<int>& ranks) {
  if (!ranks.empty())
    message += ranks.size() == 1 ? fmt::format("; still missing: rank {}", ranks.front())
                                 : fmt::format("; still missing: ranks {}", fmt::join(ranks, ", "));
  return {Code::timeout, message,
          ranks.empty() ? "the op goes on: wait again; muster status shows whether it waits for memory"
                        : "the op goes on: wait again, or find out what these ranks are doing",
          ranks};
}

/// Waits until the op is over, at most until the op's deadline.
Result<void> wait_until_over(detail::WorkState& state, Timeout timeout) {
  const auto over = [&] { return state.over.load(std::memory_order_acquire); };
  const auto begin = steady_clock::now();
  const auto latest = timeout ? begin + detail::bounded(*timeout) : steady_clock::time_point::max();
  auto& connection = *state.connection;
  if (connection.wait(over, std::min(latest, state.deadline + grace))) return {};
  const bool was_due = steady_clock::now() >= state.deadline + grace;
  const auto missing = connection.alive() ? missing_ranks(state) : std::nullopt;
  if (was_due && missing && connection.wait(over, std::min(latest, state.deadline + grace_while_it_answers))) return {};
  // The op may have ended while the daemon was asked who is missing.
  if (over()) return {};
  if (!connection.alive()) return connection.end_error();
  auto message = not_over(state, timeout, steady_clock::now() - begin);
  if (!missing)
    return Error(Code::timeout,
                 fmt::format("{}, and the daemon at {} does not answer", message, connection.welcome().socket),
                 "is it stopped, or is the machine too busy? muster status");
  return still_waiting(std::move(message), *missing);
}

/// The outcome once it is there.
Result<const Outcome*> wait_for(detail::WorkState& state, Timeout timeout) {
  if (auto checked = detail::check_timeout(timeout); !checked) return checked.error();
  if (!state.over.load(std::memory_order_acquire))
    if (auto waited = wait_until_over(state, timeout); !waited) return waited.error();
  // A call that starts an op may have read the completion; such a call calls nobody back.
  state.connection->run_callbacks();
  if (!*state.outcome) return state.outcome->error();
  return &**state.outcome;
}

}  // namespace

bool Work::done() const {
  if (!state_) return false;
  if (!state_->over.load(std::memory_order_acquire)) state_->connection->poll();
  state_->connection->run_callbacks();
  return state_->over.load(std::memory_order_acquire);
}

Result<Outcome> Work::wait(Timeout timeout) const {
  if (!state_) return Error(Code::invalid, "an empty Work has no outcome");
  auto outcome = wait_for(*state_, timeout);
  if (!outcome) return outcome.error();
  return **outcome;
}

Result<Ref> Work::ref(Timeout timeout) const {
  if (!state_) return Error(Code::invalid, "an empty Work has no outcome");
  auto outcome = wait_for(*state_, timeout);
  if (!outcome) return outcome.error();
  const auto& refs = (*outcome)->refs;
  if (refs.size() != 1)
    return Error(Code::invalid, fmt::format("this rank gets {} objects of {}", refs.size(), state_->what()),
                 "use wait()");
  return refs.front();
}

Result<int> Work::fd() const {
  if (!state_) return Error(Code::invalid, "an empty Work has no descriptor");
  return state_->connection->event_fd();
}

void Work::on_done(std::function<void()> callback) const {
  if (state_) state_->connection->on_done(state_, std::move(callback));
}

}  // namespace muster
