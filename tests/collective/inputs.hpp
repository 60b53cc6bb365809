// Inputs and contributions for tests: arrays that own their bytes, in the form that the collective layer uses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "collective/contribution.hpp"
#include "memory/borrowed_memory.hpp"

namespace musterd::testing {

struct Array {
  muster::DType dtype = muster::DType::float32;
  std::vector<std::int64_t> shape;
  std::vector<std::byte> bytes;
};

template <class T>
Array array(muster::DType dtype, std::vector<std::int64_t> shape, const std::vector<T>& values) {
  Array made{dtype, std::move(shape), std::vector<std::byte>(values.size() * sizeof(T))};
  if (!values.empty()) std::memcpy(made.bytes.data(), values.data(), made.bytes.size());
  return made;
}

inline Array floats(const std::vector<float>& values) {
  return array(muster::DType::float32, {static_cast<std::int64_t>(values.size())}, values);
}

/// The bytes of an array without values, for tests that check only dtypes and shapes.
inline Array blank(muster::DType dtype, std::vector<std::int64_t> shape) {
  std::size_t count = 1;
  for (auto size : shape) count *= static_cast<std::size_t>(size);
  return {dtype, std::move(shape), std::vector<std::byte>(count * muster::size_of(dtype))};
}

inline Input bundle(std::vector<Array> arrays, std::string structure = {}, std::string guise = {},
                    muster::Device device = muster::Device::cpu()) {
  struct Held {
    std::vector<Array> arrays;
    muster::ipc::Manifest manifest;
    Borrowed borrowed;
    std::vector<const SegmentMemory*> memories;
  };
  auto held = std::make_shared<Held>();
  held->arrays = std::move(arrays);
  held->manifest.structure = std::move(structure);
  held->manifest.guise = std::move(guise);
  Input input;
  for (Array& each : held->arrays) {
    held->manifest.add({each.bytes.empty() ? 0U : 1U}, 0, each.dtype, each.shape, device).value();
    held->memories.push_back(each.bytes.empty() ? nullptr : held->borrowed.place(each.bytes).memory);
  }
  input.manifest = &held->manifest;
  input.memories = held->memories;
  input.keeper = held;
  return input;
}

inline Input plain(Array one) {
  std::vector<Array> arrays;
  arrays.push_back(std::move(one));
  return bundle(std::move(arrays));
}

inline TimePoint at_ms(int ms) { return TimePoint{} + std::chrono::milliseconds(ms); }

inline Contribution contribution(int rank, muster::ipc::Kind kind, Ticket ticket, int deadline_ms = 1000) {
  Contribution made;
  made.rank = rank;
  made.kind = kind;
  made.ticket = ticket;
  made.deadline = at_ms(deadline_ms);
  return made;
}

}  // namespace musterd::testing
