#include "arenas.hpp"

#include <algorithm>

namespace muster::detail {

Arena* Arenas::on(Device device) {
  const auto found = std::ranges::find(arenas_, device, [](const auto& arena) { return arena->device(); });
  return found == arenas_.end() ? nullptr : found->get();
}

Arena* Arenas::owner_of(const std::byte* address) {
  const auto found = std::ranges::find_if(arenas_, [&](const auto& arena) { return arena->owns(address); });
  return found == arenas_.end() ? &host() : found->get();
}

Result<void> Arenas::adopt(ipc::ObjectId object, std::span<const std::byte* const> addresses) {
  if (arenas_.size() == 1) return host().adopt(object, addresses);
  std::vector<const std::byte*> own;
  for (const auto& arena : arenas_) {
    own.clear();
    std::ranges::copy_if(addresses, std::back_inserter(own),
                         [&](const auto* address) { return owner_of(address) == arena.get(); });
    if (own.empty()) continue;
    if (auto adopted = arena->adopt(object, own); !adopted) {
      object_gone(object);
      return adopted;
    }
  }
  return {};
}

void Arenas::object_gone(ipc::ObjectId object) {
  for (const auto& arena : arenas_) arena->object_gone(object);
}

bool Arenas::released(ipc::ObjectId object) {
  bool is_much = false;
  for (const auto& arena : arenas_) is_much |= arena->released(object);
  return is_much;
}

void Arenas::still_held(ipc::ObjectId object) {
  for (const auto& arena : arenas_) arena->still_held(object);
}

bool Arenas::has(ipc::ObjectId object) const {
  return std::ranges::any_of(arenas_, [&](const auto& arena) { return arena->has(object); });
}

void Arenas::trim() {
  for (const auto& arena : arenas_) arena->trim();
}

std::vector<Arenas::Shared> Arenas::share(ipc::ObjectId object) {
  std::vector<Shared> found;
  for (const auto& arena : arenas_)
    for (const auto segment : arena->share(object)) found.push_back({arena.get(), segment});
  return found;
}

namespace {

void append(std::vector<Stretch>& all, const std::vector<Stretch>& more) {
  all.insert(all.end(), more.begin(), more.end());
}

}  // namespace

std::vector<Stretch> Arenas::unsealed() const {
  std::vector<Stretch> found;
  for (const auto& arena : arenas_)
    if (arena->device().is_host()) append(found, arena->unsealed());
  return found;
}

std::vector<Stretch> Arenas::writable() const {
  std::vector<Stretch> found;
  for (const auto& arena : arenas_)
    if (arena->device().is_host()) append(found, arena->writable());
  return found;
}

void Arenas::disown() {
  for (const auto& arena : arenas_) arena->disown();
}

}  // namespace muster::detail
