#include <muster/ipc/json_reader.hpp>

#include <utility>

// Boost.JSON without a library to link: this is its one unit.
#include <boost/json/src.hpp>
#include <fmt/format.h>

namespace muster::ipc {

namespace {

namespace json = boost::json;

/// As deep as Json::depth_max, which the parser has checked.
Json read(const json::value& value) {
  switch (value.kind()) {
    case json::kind::null: return {};
    case json::kind::bool_: return Json(value.get_bool());
    case json::kind::string: return Json(std::string(value.get_string()));
    case json::kind::array: {
      Json::Array items;
      for (const auto& item : value.get_array()) items.push_back(read(item));
      return Json(std::move(items));
    }
    case json::kind::object: {
      Json::Object fields;
      for (const auto& [key, field] : value.get_object()) fields[std::string(key)] = read(field);
      return Json(std::move(fields));
    }
    default: return Json(value.to_number<double>());
  }
}

template <class T, class Content>
const T& content_or_empty(const Content& content) {
  static const T empty{};
  const T* const found = std::get_if<T>(&content);
  return found ? *found : empty;
}

}  // namespace

Result<Json> Json::parse(std::string_view text) {
  json::parse_options options;
  options.max_depth = depth_max;
  json::error_code error;
  const json::value value = json::parse(text, error, {}, options);
  if (error) return Error(Code::invalid, fmt::format("{} bytes are not JSON: {}", text.size(), error.message()));
  return read(value);
}

bool Json::truth() const { return content_or_empty<bool>(content_); }
double Json::number() const { return content_or_empty<double>(content_); }
const std::string& Json::text() const { return content_or_empty<std::string>(content_); }
const Json::Array& Json::array() const { return content_or_empty<Array>(content_); }

const Json& Json::operator[](std::string_view key) const {
  static const Json missing;
  const auto& fields = content_or_empty<Object>(content_);
  const auto found = fields.find(key);
  return found == fields.end() ? missing : found->second;
}

}  // namespace muster::ipc
