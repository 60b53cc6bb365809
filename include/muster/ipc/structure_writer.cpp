#include <muster/ipc/structure_writer.hpp>

#include <algorithm>
#include <numeric>
#include <utility>

namespace muster::ipc {

Description StructureWriter::take() && {
  if (bytes_.size() == 1 && bytes_.front() == node::leaf) bytes_.clear();
  return {std::move(bytes_), guise_.take()};
}

void StructureWriter::leaf(LeafKind kind) {
  head(node::leaf);
  guise_.leaf(kind);
}

void StructureWriter::integer(std::int64_t value) {
  large_integer({reinterpret_cast<const char*>(&value), sizeof value});
}

void StructureWriter::large_integer(std::string_view bytes) {
  head(node::integer);
  text(bytes);
}

void StructureWriter::real(double value) {
  head(node::real);
  bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void StructureWriter::complex(double real, double imaginary) {
  const double parts[] = {real, imaginary};
  head(node::complex);
  bytes_.append(reinterpret_cast<const char*>(parts), sizeof parts);
}

void StructureWriter::string(std::string_view utf8) {
  head(node::string);
  text(utf8);
}

void StructureWriter::bytes(std::string_view bytes) {
  head(node::bytes);
  text(bytes);
}

void StructureWriter::pickle(std::string_view type, std::string_view pickled) {
  head(node::pickle);
  text(type);
  text(pickled);
}

void StructureWriter::class_by_name(std::string_view module, std::string_view name) {
  head(node::named);
  text(module);
  text(name);
}

void StructureWriter::head(const ClassName& name) {
  head(node::instance);
  bytes_.push_back(name.form);
  text(name.module);
  text(name.name);
}

void StructureWriter::number(std::size_t number) {
  const auto written = static_cast<std::uint32_t>(number);
  bytes_.append(reinterpret_cast<const char*>(&written), sizeof written);
}

void StructureWriter::text(std::string_view bytes) {
  number(bytes.size());
  bytes_.append(bytes);
}

std::vector<std::size_t> StructureWriter::sort(const Pieces& pieces) {
  const auto piece = [&](std::size_t i) {
    const std::size_t from = i == 0 ? pieces.begin : pieces.ends[i - 1];
    return std::string_view(bytes_).substr(from, pieces.ends[i] - from);
  };
  const auto before = [&](std::size_t a, std::size_t b) { return piece(a) < piece(b); };
  std::size_t sorted = 1;
  while (sorted < pieces.ends.size() && !before(sorted, sorted - 1)) ++sorted;
  if (sorted >= pieces.ends.size()) return {};

  std::vector<std::size_t> order(pieces.ends.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), before);
  std::string in_order;
  for (const std::size_t i : order) in_order += piece(i);
  bytes_.replace(pieces.begin, std::string::npos, in_order);
  return order;
}

void StructureWriter::note_order(std::size_t dict, std::span<const std::size_t> order) {
  if (order.empty()) return;
  std::vector<std::uint32_t> places(order.size());
  for (std::size_t place = 0; place < order.size(); ++place) places[order[place]] = static_cast<std::uint32_t>(place);
  guise_.order(dict, places);
}

}  // namespace muster::ipc
