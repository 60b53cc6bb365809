// Strong ids for everything that both ends of a connection name. Zero names nothing.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace muster::ipc {

template <class Tag, class Number>
struct Id {
  Number value = 0;
  auto operator<=>(const Id&) const = default;
  explicit operator bool() const { return value != 0; }
};

using ClientId = Id<struct ClientTag, std::uint32_t>;
using SegmentId = Id<struct SegmentTag, std::uint32_t>;  ///< never reused while a daemon lives
using SeatId = Id<struct SeatTag, std::uint32_t>;        ///< one client's hold of one rank of one group
using WorkId = Id<struct WorkTag, std::uint64_t>;        ///< chosen by the client; unique in its connection

/// High 32 bits: the client that sealed the object (0: the daemon made it); low 32 bits: that maker's counter.
/// So a client names its objects itself and a seal needs no reply.
using ObjectId = Id<struct ObjectTag, std::uint64_t>;

[[nodiscard]] constexpr ObjectId make_object_id(ClientId maker, std::uint32_t counter) {
  return {(std::uint64_t{maker.value} << 32) | counter};
}
[[nodiscard]] constexpr ClientId maker_of(ObjectId object) { return {static_cast<std::uint32_t>(object.value >> 32)}; }

/// The id as commands and messages show it: "3:17", maker and counter.
[[nodiscard]] inline std::string text_of(ObjectId object) {
  constexpr std::uint64_t counter = 0xffffffffU;
  return std::to_string(maker_of(object).value) + ":" + std::to_string(object.value & counter);
}

/// 128 random bits. A client that shows them may hold the object.
struct Capability {
  std::array<std::uint64_t, 2> bits{};
  auto operator<=>(const Capability&) const = default;
};

}  // namespace muster::ipc

template <class Tag, class Number>
struct std::hash<muster::ipc::Id<Tag, Number>> {
  std::size_t operator()(const muster::ipc::Id<Tag, Number>& id) const { return std::hash<Number>{}(id.value); }
};
