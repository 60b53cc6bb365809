#include "gpu/control/communicators.hpp"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "base/heap_reserve.hpp"

namespace musterd::gpu {

using muster::Code;
using muster::Error;

namespace {

constexpr TimePoint at_once{};

std::string text_of(const GpuSet& members) {
  std::string text;
  for (const Gpu* const member : members) {
    if (member != members.front()) text += member == members.back() ? " and " : ", ";
    text += name(member->device());
  }
  return text;
}

}  // namespace

Communicators::Communicators(CommunicatorSettings settings, Events events)
    : settings_(settings),
      events_(std::move(events)),
      no_memory_(std::make_shared<const Error>(no_heap())),
      failed_(settings.failed) {}

bool Communicators::Communicator::has(const Gpu& gpu) const {
  return std::ranges::find(members(), &gpu) != members().end();
}

Communicators::List::iterator Communicators::find(List& list, CommunicatorId id) {
  return std::ranges::find(list, id, &Communicator::id);
}

Communicators::Communicator* Communicators::find_usable(CommunicatorId id) {
  for (List* const list : {&live_, &waiting_})
    if (const auto found = find(*list, id); found != list->end()) return &*found;
  return nullptr;
}

Why Communicators::unavailable(const Team& team) const {
  if (auto why = failed_.pausing(team)) return why;
  for (const List* const list : {&live_, &waiting_})
    if (std::ranges::find(*list, team, &Communicator::team) != list->end()) return nullptr;
  const auto waiting = static_cast<std::size_t>(
      std::ranges::count(waiting_, team.user, [](const Communicator& one) { return one.team.user; }));
  if (waiting < settings_.waiting_max) return nullptr;
  return why_of(
      Error(Code::quota_exceeded, fmt::format("ops of this user wait to be run over {} sets of GPUs at once", waiting),
            "wait for some of them, or use fewer sets of GPUs"),
      no_memory_);
}

CommunicatorId Communicators::want(const Team& team) {
  Communicator* found = nullptr;
  for (List* const list : {&live_, &waiting_})
    if (const auto known = std::ranges::find(*list, team, &Communicator::team); known != list->end()) found = &*known;
  if (!found) {
    List one(1);
    found = &one.front();
    found->team = team;
    found->id = ++last_id_;
    waiting_.splice(waiting_.end(), one);
  }
  ++found->jobs;
  if (found->state == State::waiting) make_room();
  found->last_used = ++uses_;
  return found->id;
}

void Communicators::done(CommunicatorId id) noexcept {
  Communicator* const found = find_usable(id);
  if (!found) return;
  --found->jobs;
  release_idle();
  make_room();
}

bool Communicators::is_ready(CommunicatorId id) const {
  const auto found = std::ranges::find(live_, id, &Communicator::id);
  return found != live_.end() && found->state == State::ready;
}

// ---- it is made ----

/// Where one is being aborted, its worker may hang and end soon. So the next one waits.
bool Communicators::has_room(const Communicator& wanted) const {
  Counts made;
  for (const List* const list : {&live_, &ending_})
    for (const auto& one : *list) ++(one.team.user == wanted.team.user ? made.of_user : made.of_others);
  if (!is_in_share(made)) return false;
  const auto is_ending = [](const Gpu* gpu) { return gpu->state() == Gpu::State::ending; };
  if (std::ranges::any_of(wanted.members(), is_ending)) return false;
  return std::ranges::none_of(ending_, [&](const Communicator& other) {
    return other.state == State::aborting &&
           std::ranges::any_of(wanted.members(), [&](const Gpu* gpu) { return other.has(*gpu); });
  });
}

void Communicators::make(List::iterator made) {
  live_.splice(live_.end(), waiting_, made);
  made->state = State::naming;
  try {
    if (auto asked = made->members().front()->name_communicator(made->id); !asked)
      give_up(made, why_of(asked.error(), no_memory_), Fault::ours);
  } catch (const std::exception&) {
    give_up(made, no_memory_, Fault::ours);
  }
}

void Communicators::named(const Gpu& gpu, CommunicatorId id, std::span<const std::uint8_t> unique_id) {
  const auto found = find(live_, id);
  if (found == live_.end() || found->state != State::naming || found->members().front() != &gpu) return;
  try {
    join_all(found, unique_id);
  } catch (const std::exception&) {
    give_up(found, no_memory_, Fault::ours);
  }
}

/// All members are told in one event, and so are all parts of each job later. So all workers hear of all communicators
/// and their jobs in the same order.
void Communicators::join_all(List::iterator made, std::span<const std::uint8_t> unique_id) {
  made->state = State::joining;
  const auto ranks = static_cast<std::uint32_t>(made->members().size());
  for (std::uint32_t rank = 0; rank < ranks; ++rank) {
    if (auto told = made->members()[rank]->join({made->id, rank}, ranks, unique_id); !told)
      return give_up(made, why_of(told.error(), no_memory_), Fault::ours);
    made->awaited |= 1U << rank;
  }
}

void Communicators::joined(const Gpu& gpu, CommunicatorId id) {
  const auto found = find(live_, id);
  if (found == live_.end() || found->state != State::joining || !answered(*found, gpu)) return;
  if (found->awaited != 0) return;
  found->state = State::ready;
  failed_.joined(found->team);
  events_.ready();
  release_idle();
}

bool Communicators::answered(Communicator& asked, const Gpu& gpu) {
  const auto member = std::ranges::find(asked.members(), &gpu);
  if (member == asked.members().end()) return false;
  asked.awaited &= ~(1U << (member - asked.members().begin()));
  return true;
}

// ---- it ends ----

void Communicators::broken(const Gpu& gpu, CommunicatorId id, const Error& why) {
  const auto found = find(live_, id);
  if (found == live_.end() || !found->has(gpu)) return;
  give_up(found,
          why_of(Error(why.code(),
                       fmt::format("{} can't work together: {}: {}", text_of(found->members()), name(gpu.device()),
                                   why.message()),
                       why.hint()),
                 no_memory_),
          Fault::nccl);
}

void Communicators::give_up(CommunicatorId id, const Why& why) noexcept {
  const auto found = find(live_, id);
  if (found != live_.end()) give_up(found, why, Fault::ours);
}

void Communicators::give_up(List::iterator broken, const Why& why, Fault fault) noexcept {
  const CommunicatorId id = broken->id;
  const bool is_failed_join = fault == Fault::nccl && broken->is_being_made();
  const Why told = is_failed_join ? failed_.failed(broken->team, why) : why;
  end(broken, Gpu::Leaving::abort);
  events_.broken(id, told);
}

void Communicators::end(List::iterator over, Gpu::Leaving how) noexcept {
  over->state = how == Gpu::Leaving::abort ? State::aborting : State::leaving;
  over->since.reset();
  over->awaited = 0;
  for (std::size_t rank = 0; rank < over->members().size(); ++rank)
    if (over->members()[rank]->leave(over->id, how)) over->awaited |= 1U << rank;
  ending_.splice(ending_.end(), live_, over);
  forget_answered();
}

void Communicators::left(const Gpu& gpu, CommunicatorId id) {
  const auto found = find(ending_, id);
  if (found == ending_.end()) return;
  answered(*found, gpu);
  forget_answered();
}

void Communicators::forget_answered() noexcept {
  ending_.remove_if([](const Communicator& one) { return one.awaited == 0; });
}

void Communicators::worker_gone(const Gpu& gpu, const Error& why) noexcept {
  for (auto& one : ending_) answered(one, gpu);
  forget_answered();
  Why shared;
  for (auto next = live_.begin(); next != live_.end();) {
    const auto each = next++;
    if (!each->has(gpu)) continue;
    if (!shared) shared = why_of(why, no_memory_);
    give_up(each, shared, Fault::nccl);
  }
}

// ---- time ----

std::optional<TimePoint> Communicators::due(const Communicator& one) const {
  switch (one.state) {
    case State::waiting: return one.jobs == 0 || has_room(one) ? std::optional(at_once) : std::nullopt;
    case State::ready: return std::nullopt;
    case State::naming:
    case State::joining:
      return one.since ? *one.since + (one.jobs > 0 ? settings_.make_timeout : settings_.unwanted_timeout) : at_once;
    case State::leaving:
    case State::aborting: return one.since ? *one.since + settings_.end_timeout : at_once;
  }
  return std::nullopt;
}

std::optional<TimePoint> Communicators::next_deadline() const {
  std::optional<TimePoint> earliest;
  for (const List* const list : {&waiting_, &live_, &ending_})
    for (const auto& one : *list)
      if (const auto next = due(one); next && (!earliest || *next < *earliest)) earliest = next;
  if (const auto next = failed_.next_deadline(); next && (!earliest || *next < *earliest)) earliest = next;
  return earliest;
}

void Communicators::tick(TimePoint now) {
  failed_.tick(now);
  tick_waiting();
  tick_live(now);
  tick_ending(now);
}

void Communicators::tick_waiting() {
  for (auto next = waiting_.begin(); next != waiting_.end();) {
    const auto each = next++;
    if (each->jobs == 0) waiting_.erase(each);
    else if (has_room(*each)) make(each);
  }
}

/// To give one up tells who waits for memory of its workers, and that may move others from list to list. So each is
/// looked for anew.
void Communicators::tick_live(TimePoint now) {
  for (auto& each : live_)
    if (each.is_being_made() && !each.since) each.since = now;
  const auto is_late = [&](const Communicator& one) {
    const auto until = due(one);
    return until && now >= *until;
  };
  for (auto late = std::ranges::find_if(live_, is_late); late != live_.end();
       late = std::ranges::find_if(live_, is_late))
    give_up_late(late, now);
}

/// Workers that have not answered are replaced. Where no job has waited for all of the time, NCCL may only be slow, so
/// it gets a second chance.
void Communicators::give_up_late(List::iterator late, TimePoint now) {
  GpuSet missing;
  for (std::size_t rank = 0; rank < late->members().size(); ++rank)
    if (late->state == State::naming ? rank == 0 : (late->awaited >> rank & 1U) != 0)
      missing.push_back(late->members()[rank]);
  const bool is_slow = late->jobs == 0 && failed_.in_a_row(late->team) == 0;
  const Why why = why_of(too_late(*late, missing, now - *late->since), no_memory_);
  give_up(late, why, Fault::nccl);
  for (Gpu* const member : missing)
    if (!is_slow && member->state() != Gpu::State::ending) member->replace_worker(*why);
}

Error Communicators::too_late(const Communicator& made, const GpuSet& missing, Duration waited) {
  return {Code::timeout,
          fmt::format("{} were not joined by NCCL within {} s: {} did not answer", text_of(made.members()),
                      std::chrono::floor<std::chrono::seconds>(waited).count(), text_of(missing)),
          "see the daemon's log; NCCL_DEBUG=INFO in the daemon's environment says more"};
}

void Communicators::tick_ending(TimePoint now) {
  for (auto next = ending_.begin(); next != ending_.end();) {
    const auto each = next++;
    if (!each->since) each->since = now;
    if (now < *each->since + settings_.end_timeout) continue;
    if (each->state == State::leaving) {
      live_.splice(live_.end(), ending_, each);
      end(each, Gpu::Leaving::abort);
      continue;
    }
    each->since = now;
    for (std::size_t rank = 0; rank < each->members().size(); ++rank) {
      Gpu& member = *each->members()[rank];
      if ((each->awaited >> rank & 1U) != 0 && member.state() != Gpu::State::ending)
        member.replace_worker(Error(Code::timeout, "NCCL did not end what it was to abort",
                                    "see the daemon's log; what was stored is still there"));
    }
  }
}

// ---- who may have how many ----

/// Whether the user may have one more: half of those that others leave.
bool Communicators::is_in_share(const Counts& made) const {
  const std::size_t left = settings_.made_max - std::min(made.of_others, settings_.made_max);
  return made.of_user < (left + 1) / 2;
}

/// What there will be when the turn of one that waits has come: those that are ending have gone then.
Communicators::Counts Communicators::made_before(const Communicator& wanted) const {
  Counts made;
  for (const auto& one : live_) ++(one.team.user == wanted.team.user ? made.of_user : made.of_others);
  for (const auto& one : waiting_) {
    if (&one == &wanted) break;
    if (one.team.user == wanted.team.user && one.jobs > 0) ++made.of_user;
  }
  return made;
}

std::size_t Communicators::idle(std::optional<UserId> of) const {
  return static_cast<std::size_t>(std::ranges::count_if(
      live_, [&](const Communicator& one) { return one.is_idle() && (!of || one.team.user == *of); }));
}

/// The one that goes first, of those that no job uses: of the user who has most of them, the one that was used last
/// stays longest.
Communicators::List::iterator Communicators::first_idle(std::optional<UserId> of) {
  auto first = live_.end();
  for (auto each = live_.begin(); each != live_.end(); ++each) {
    if (!each->is_idle() || (of && each->team.user != *of)) continue;
    if (first == live_.end() ||
        std::pair(idle(first->team.user), each->last_used) < std::pair(idle(each->team.user), first->last_used))
      first = each;
  }
  return first;
}

void Communicators::release_idle() noexcept {
  while (idle() > settings_.idle_max) end(first_idle(), Gpu::Leaving::in_order);
}

/// One that nobody uses gives its place to one that is wanted: one of the same user, or of others if that helps.
void Communicators::make_room() noexcept {
  for (const auto& wanted : waiting_) {
    if (idle() == 0) return;
    if (wanted.jobs == 0) continue;
    const Counts made = made_before(wanted);
    if (is_in_share(made)) continue;
    auto unused = first_idle(wanted.team.user);
    if (unused == live_.end() && is_in_share({made.of_user, made.of_others - idle()})) unused = first_idle();
    if (unused != live_.end()) end(unused, Gpu::Leaving::in_order);
  }
}

}  // namespace musterd::gpu
