// Who holds how much. Everything is charged here to a client and its user before it is held. The destructor of the
// Charge gives it back, so that a client that dies can't leave anything behind.
#pragma once

#include <array>
#include <boost/unordered/unordered_flat_map.hpp>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <muster/device.hpp>
#include <muster/ipc/ids.hpp>
#include <muster/result.hpp>

namespace musterd {

using muster::ipc::ClientId;
using UserId = std::uint32_t;  ///< a uid

/// memory: segments and rings on the host; slots: ops in flight; heap: what the daemon keeps in its own memory for
/// somebody; maps: memory mappings of the daemon's process, one for each segment and for each client's rings;
/// gpu_memory: segments on the first GPU, and after it come those on the others; in_place: allocations on GPUs that
/// clients have left in place
enum class Resource : std::uint8_t {
  memory,
  objects,
  fds,
  slots,
  groups,
  heap,
  maps,
  gpu_memory,
  in_place = gpu_memory + muster::gpus_max
};
inline constexpr std::size_t host_resource_count = 7;
inline constexpr std::size_t resource_count = host_resource_count + muster::gpus_max + 1;
/// What a segment's bytes are charged as.
[[nodiscard]] constexpr Resource memory_of(muster::Device device) {
  if (device.is_host()) return Resource::memory;
  return static_cast<Resource>(static_cast<std::size_t>(Resource::gpu_memory) + device.index);
}
/// For messages: "64 KiB", "12 objects".
[[nodiscard]] std::string amount_text(Resource resource, std::uint64_t amount);

/// An amount of each resource, in the order of Resource. The constructor takes all amounts of the host or none, so that
/// none can be forgotten. Amounts of GPUs are zero unless they are set.
class Amounts {
 public:
  constexpr Amounts() = default;
  template <std::convertible_to<std::uint64_t>... Each>
  requires(sizeof...(Each) == host_resource_count) constexpr Amounts(Each... each)
      : amounts_{static_cast<std::uint64_t>(each)...} {}

  [[nodiscard]] constexpr std::uint64_t& operator[](Resource resource) {
    return amounts_[static_cast<std::size_t>(resource)];
  }
  [[nodiscard]] constexpr std::uint64_t operator[](Resource resource) const {
    return amounts_[static_cast<std::size_t>(resource)];
  }
  [[nodiscard]] constexpr std::uint64_t& operator[](std::size_t resource) { return amounts_[resource]; }
  [[nodiscard]] constexpr std::uint64_t operator[](std::size_t resource) const { return amounts_[resource]; }
  bool operator==(const Amounts&) const = default;

 private:
  std::array<std::uint64_t, resource_count> amounts_{};
};

struct Quota {
  Amounts total;  ///< of the whole daemon; that of memory is the budget
  /// The part of the budget that large requests leave alone, so that small ones needn't wait behind them.
  std::uint64_t reserve_bytes = 0;
  Amounts per_user;
  Amounts per_client;
};

/// Whom a charge is for. Client 0 means the daemon itself, on behalf of the user (results).
struct Payer {
  UserId user = 0;
  ClientId client;
};

/// Says whether a request for a little memory overtakes others that wait for memory. If it does, it may only use the
/// reserve.
enum class Turn : std::uint8_t { its_own, before_others };

class Ledger;

/// One amount that is held, and what it takes of the heap. Gives both back when destroyed. Must not outlive its ledger.
class [[nodiscard]] Charge {
 public:
  Charge() = default;
  Charge(Charge&& other) noexcept;
  Charge& operator=(Charge&& other) noexcept;
  ~Charge() { reset(); }
  void reset();
  /// Gives back everything but at most `bytes_max` of the heap that it is charged for.
  void keep_heap(std::uint64_t bytes_max);
  [[nodiscard]] std::uint64_t amount() const { return amount_; }
  [[nodiscard]] Resource resource() const { return resource_; }
  /// The heap that is charged beside the amount. A charge of heap alone has it as its amount.
  [[nodiscard]] std::uint64_t heap() const { return heap_; }
  /// All heap that is charged, as the amount or beside it.
  [[nodiscard]] std::uint64_t all_heap() const { return resource_ == Resource::heap ? amount_ : heap_; }

 private:
  friend class Ledger;
  Charge(Ledger* ledger, Payer payer, Resource resource, std::uint64_t amount, std::uint64_t heap, bool small)
      : ledger_(ledger), payer_(payer), resource_(resource), small_(small), amount_(amount), heap_(heap) {}
  Ledger* ledger_ = nullptr;
  Payer payer_;
  Resource resource_ = Resource::memory;
  bool small_ = false;
  std::uint64_t amount_ = 0;
  std::uint64_t heap_ = 0;
};

struct Account {
  Amounts used{};
  std::uint64_t small_bytes = 0;  ///< how much of the memory was taken from the reserve
  std::uint64_t memory_peak = 0;
};

class Ledger {
 public:
  explicit Ledger(Quota quota) : quota_(quota) {}
  Ledger(const Ledger&) = delete;
  Ledger& operator=(const Ledger&) = delete;

  /// QuotaExceeded if the client's or user's share does not allow it; OutOfMemory if the daemon's total doesn't (for
  /// memory: the caller may wait, see Admission). The message names the limit. It does not say who holds the memory of
  /// a full store: a request that waits is refused again and again, so its final error adds holders_of_memory() once.
  /// `heap`: what it takes of the heap, charged in the same step.
  [[nodiscard]] muster::Result<Charge> charge(Payer payer, Resource resource, std::uint64_t amount,
                                              std::uint64_t heap = 0);
  /// The same for a little memory, which may come from the reserve when there is nothing else.
  [[nodiscard]] muster::Result<Charge> charge_small(Payer payer, std::uint64_t bytes, Turn turn = Turn::its_own,
                                                    std::uint64_t heap = 0);
  /// Changes `charge` to `bytes`. It must be empty, or the payer's for heap alone. A refusal leaves it as it was.
  [[nodiscard]] muster::Result<void> resize(Charge& charge, Payer payer, std::uint64_t bytes);
  /// Ok if the amount fits into what every limit leaves; the reserve counts as free. charge() refuses all that this
  /// refuses.
  [[nodiscard]] muster::Result<void> has_room(Payer payer, Resource resource, std::uint64_t amount);
  /// Ok if the amount could ever fit, as it exceeds no limit.
  [[nodiscard]] muster::Result<void> possible(Payer payer, Resource resource, std::uint64_t amount) const;

  /// Who has not enough of what.
  struct Shortage {
    enum class Of : std::uint8_t {
      client,
      user,
      daemon,
      nobody,  ///< the charge exceeds a limit by itself, so it can never fit
    };
    Of of = Of::daemon;
    Resource resource = Resource::memory;
  };
  /// Why a charge was refused last, if one was since the last call.
  [[nodiscard]] std::optional<Shortage> take_shortage() { return std::exchange(shortage_, std::nullopt); }

  [[nodiscard]] const Account& total() const { return total_; }
  [[nodiscard]] Account user(UserId user) const;
  [[nodiscard]] Account client(ClientId client) const;
  struct OfUser {
    UserId user = 0;
    Account account;
  };
  /// The `count` users with the most memory, the largest first. Walks over all users.
  [[nodiscard]] std::vector<OfUser> largest_users(std::size_t count) const;
  [[nodiscard]] std::size_t users() const { return users_.size(); }
  /// Grows with every charge of memory that ends. So callers see when a request that waits is worth another attempt.
  [[nodiscard]] std::uint64_t memory_releases() const { return memory_releases_; }
  /// `results of user 1000: 1024 MiB, client 3: 512 MiB, ...`: the largest holders of memory, for error messages. Walks
  /// over all clients.
  [[nodiscard]] std::string holders_of_memory(const std::function<std::string(ClientId)>& name_of,
                                              std::size_t count = 4, Resource memory = Resource::memory) const;

 private:
  friend class Charge;
  /// The accounts that a charge counts for, beside the daemon's total. Valid until the next charge.
  struct Accounts {
    Account& user;
    Account& own;
  };
  [[nodiscard]] Accounts accounts_of(Payer payer);
  void forget_empty(Payer payer);
  [[nodiscard]] bool leaves_the_reserve(std::uint64_t bytes) const;
  [[nodiscard]] bool in_the_reserve(Payer payer, Accounts accounts, std::uint64_t bytes) const;
  [[nodiscard]] bool within_quota(Payer payer, Accounts accounts, Resource resource, std::uint64_t amount) const;
  [[nodiscard]] Charge take(Payer payer, Accounts accounts, Resource resource, std::uint64_t amount, std::uint64_t heap,
                            bool small);
  [[nodiscard]] muster::Error refuse(Payer payer, Resource resource, std::uint64_t amount);
  /// Who has no room for it.
  [[nodiscard]] Shortage::Of shortage_of(Payer payer, Resource resource, std::uint64_t amount) const;
  /// Why a charge that does not fit is refused.
  [[nodiscard]] muster::Error refusal(Payer payer, Resource resource, std::uint64_t amount, Shortage::Of of) const;
  void give_back(const Charge& charge);

  Quota quota_;
  Account total_;
  boost::unordered_flat_map<UserId, Account> users_;
  boost::unordered_flat_map<ClientId, Account, std::hash<ClientId>> clients_;
  boost::unordered_flat_map<UserId, Account> results_;  ///< the part of users_ that the daemon holds for users
  std::uint64_t memory_releases_ = 0;
  std::optional<Shortage> shortage_;
};

}  // namespace musterd
