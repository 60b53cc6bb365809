// A decider that answers when it is told to, in any order, and can refuse. The suites of the session run once more with
// MUSTER_TEST_DECIDER=late: then each answer comes after the event that asked for it, the latest question first, and
// epochs skip numbers.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <list>
#include <optional>
#include <string_view>
#include <utility>

#include "cluster/decider.hpp"

namespace musterd::testing {

class TestDecider : public Decider {
 public:
  struct Asked {
    Proposal::About about = Proposal::About::op;
    muster::ipc::Kind kind = muster::ipc::Kind::barrier;
    std::uint32_t epoch = 0;
    std::function<void(Decision)> decided;
  };

  [[nodiscard]] std::optional<Decision> propose(const Proposal& proposal,
                                                std::function<void(Decision)> decided) override {
    const std::uint32_t epoch = proposal.group.epoch();
    if (!late) return Decision{{}, epoch + 1};
    asked.push_back({proposal.about, proposal.kind, epoch, std::move(decided)});
    return std::nullopt;
  }

  using One = std::list<Asked>::iterator;
  void agree(One one) { answer(one, {}); }
  void refuse(One one, const muster::Error& error) { answer(one, error); }
  void agree_to_all() {
    while (!asked.empty()) agree(std::prev(asked.end()));
  }

  std::list<Asked> asked;  ///< not answered yet
  bool late = is_late();
  bool hold = false;          ///< answers come only when the test says so
  bool skips_epochs = false;  ///< only if the answers are late

 private:
  static bool is_late() {
    const char* chosen = std::getenv("MUSTER_TEST_DECIDER");
    return chosen && std::string_view(chosen) == "late";
  }
  void answer(One one, muster::Result<void> outcome) {
    std::list<Asked> taken;
    taken.splice(taken.end(), asked, one);
    if (!skips_epochs) return taken.front().decided({std::move(outcome), taken.front().epoch + 1});
    constexpr std::uint32_t step = 7;
    last_epoch_ = std::max(last_epoch_, taken.front().epoch) + step;
    taken.front().decided({std::move(outcome), last_epoch_});
  }
  std::uint32_t last_epoch_ = 0;
};

}  // namespace musterd::testing
