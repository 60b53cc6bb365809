#include <muster/ipc/description.hpp>

#include <muster/ipc/guise.hpp>
#include <muster/ipc/structure_reader.hpp>

namespace muster::ipc {

namespace {

/// Counts the leaves.
struct Counter {
  struct Value {};
  using Values = std::vector<Value>;
  std::size_t leaves = 0;

  Value leaf() {
    ++leaves;
    return {};
  }
  static Value atom(const Atom&) { return {}; }
  static Value sequence(char, Values&&) { return {}; }
  static Value dict(std::size_t, Values&&, Values&&) { return {}; }
  static Value instance(const ClassName&, std::size_t, Values&&, std::vector<std::string_view>&&, Values&&, Values&&) {
    return {};
  }
};

}  // namespace

std::optional<std::vector<Element>> elements_of(std::string_view structure, std::string_view guise) {
  const Guise read(guise);
  Counter counter;
  StructureReader reader(structure, counter);
  const auto count = reader.enter_sequence();
  if (!count) return std::nullopt;
  std::vector<Element> elements;
  for (std::uint32_t i = 0; i < *count; ++i) {
    const std::size_t begin = reader.position();
    const std::size_t leaves_before = counter.leaves;
    const std::size_t dicts_before = reader.dicts();
    reader.value(1);
    const auto part = structure.substr(begin, reader.position() - begin);
    const std::size_t leaves = counter.leaves - leaves_before;
    Description description{part == std::string_view(&node::leaf, 1) ? std::string() : std::string(part),
                            read.slice(leaves_before, leaves, dicts_before, reader.dicts() - dicts_before)};
    elements.push_back({std::move(description), leaves});
  }
  return elements;
}

}  // namespace muster::ipc
