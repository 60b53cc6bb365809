#include <muster/ipc/guise.hpp>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include <muster/ipc/structure.hpp>

namespace muster::ipc {

namespace {

constexpr std::array<std::pair<LeafKind, std::string_view>, 5> kind_names{{
    {LeafKind::numpy, "numpy"},
    {LeafKind::matrix, "matrix"},
    {LeafKind::torch, "torch"},
    {LeafKind::jax, "jax"},
    {LeafKind::cupy, "cupy"},
}};

}  // namespace

std::string_view name(LeafKind kind) {
  const auto* found = std::find_if(kind_names.begin(), kind_names.end(), [&](auto& one) { return one.first == kind; });
  return found == kind_names.end() ? "unknown" : found->second;
}

std::optional<LeafKind> leaf_kind_named(std::string_view name) {
  for (const auto& [kind, its_name] : kind_names)
    if (its_name == name) return kind;
  return std::nullopt;
}

// ---- writing ----

void GuiseWriter::number(std::size_t number) {
  const auto written = static_cast<std::uint32_t>(number);
  orders_.append(reinterpret_cast<const char*>(&written), sizeof written);
}

void GuiseWriter::order(std::size_t dict, std::span<const std::uint32_t> places) {
  number(dict);
  number(places.size());
  orders_.append(reinterpret_cast<const char*>(places.data()), places.size_bytes());
}

std::string GuiseWriter::take() const {
  const bool plain = kinds_.find_first_not_of(static_cast<char>(LeafKind::numpy)) == std::string::npos;
  if (plain && orders_.empty()) return {};
  const std::string_view kinds = plain ? std::string_view() : kinds_;
  const auto count = static_cast<std::uint32_t>(kinds.size());
  std::string guise(reinterpret_cast<const char*>(&count), sizeof count);
  return guise.append(kinds).append(orders_);
}

// ---- reading ----

Guise::Guise(std::string_view text) : rest_(text) {
  if (text.empty()) return;
  kinds_ = take(number());
  while (!rest_.empty()) {
    const std::size_t dict = number();
    if (!orders_.empty() && dict <= orders_.back().dict) throw DamagedStructure();
    const std::size_t keys = number();
    orders_.push_back({dict, take(keys * sizeof(std::uint32_t))});
  }
}

LeafKind Guise::kind(std::size_t leaf) const {
  if (kinds_.empty()) return LeafKind::numpy;
  if (leaf >= kinds_.size()) throw DamagedStructure();
  switch (const auto kind = static_cast<LeafKind>(kinds_[leaf])) {
    case LeafKind::numpy:
    case LeafKind::matrix:
    case LeafKind::torch:
    case LeafKind::jax:
    case LeafKind::cupy: return kind;
  }
  throw DamagedStructure();
}

std::optional<std::vector<std::size_t>> Guise::places(std::size_t dict, std::size_t keys) const {
  const auto found = first_from(dict);
  if (found == orders_.end() || found->dict != dict) return std::nullopt;
  if (found->places.size() != keys * sizeof(std::uint32_t)) throw DamagedStructure();
  std::vector<std::size_t> places;
  std::vector<bool> taken(keys);
  for (std::size_t i = 0; i < keys; ++i) {
    std::uint32_t place = 0;
    std::memcpy(&place, found->places.data() + i * sizeof place, sizeof place);
    if (place >= keys || taken[place]) throw DamagedStructure();
    taken[place] = true;
    places.push_back(place);
  }
  return places;
}

std::string Guise::slice(std::size_t leaf, std::size_t leaves, std::size_t dict, std::size_t dicts) const {
  if (!kinds_.empty() && leaf + leaves > kinds_.size()) throw DamagedStructure();
  GuiseWriter part;
  if (!kinds_.empty()) part.kinds_ = kinds_.substr(leaf, leaves);
  for (auto order = first_from(dict); order != orders_.end() && order->dict < dict + dicts; ++order) {
    part.number(order->dict - dict);
    part.number(order->places.size() / sizeof(std::uint32_t));
    part.orders_ += order->places;
  }
  return part.take();
}

std::string_view Guise::take(std::size_t bytes) {
  if (rest_.size() < bytes) throw DamagedStructure();
  const auto taken = rest_.substr(0, bytes);
  rest_.remove_prefix(bytes);
  return taken;
}

std::size_t Guise::number() {
  std::uint32_t value = 0;
  std::memcpy(&value, take(sizeof value).data(), sizeof value);
  return value;
}

std::vector<Guise::Order>::const_iterator Guise::first_from(std::size_t dict) const {
  return std::lower_bound(orders_.begin(), orders_.end(), dict,
                          [](const Order& order, std::size_t wanted) { return order.dict < wanted; });
}

}  // namespace muster::ipc
