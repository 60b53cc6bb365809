#include "parse_errors.hpp"

#include <algorithm>
#include <vector>

#include <fmt/format.h>

#include "text.hpp"

namespace muster::cli {

namespace {

/// CLI11's own texts for errors that it finds by itself. CLI11 reports these errors only as text.
std::string text_of(const CLI::ArgumentMismatch& error) {
  const std::string text = error.what();
  const auto begin = std::min(text.find('-'), text.size());
  const auto name = text.substr(begin, text.find_first_of(": ,", begin) - begin);
  if (text.find("missing") != std::string::npos) return name + " needs a value";
  return name + " takes one value, and can be given once";
}

/// Names the words that the command needs and did not get.
std::string text_of_missing(const CLI::App& command) {
  for (const auto* option : command.get_options())
    if (option->get_required() && option->count() == 0)
      return fmt::format("it needs a {}, {}", option->get_name(), option->get_description());
  return "it needs more words";
}

/// Every option that takes a value checks it before CLI11 converts it, so this error concerns a flag.
std::string text_of_conversion(const std::string& text) {
  const auto begin = std::min(text.find("--"), text.size());
  return text.substr(begin, text.find_first_of(" :=,", begin) - begin) + " takes no value";
}

}  // namespace

std::string text_of(const CLI::ParseError& error, const CLI::App& command) {
  if (dynamic_cast<const CLI::ExtrasError*>(&error)) {
    const auto words = command.remaining();
    const auto option = std::ranges::find_if(words, [](const std::string& word) { return word.starts_with('-'); });
    if (option != words.end()) return no_option(*option, command);
    if (!words.empty()) return fmt::format("'{}' is one word too many", words.front());
  }
  if (const auto* mismatch = dynamic_cast<const CLI::ArgumentMismatch*>(&error)) return text_of(*mismatch);
  if (dynamic_cast<const CLI::RequiredError*>(&error)) return text_of_missing(command);
  if (dynamic_cast<const CLI::ConversionError*>(&error)) return text_of_conversion(error.what());
  return error.what();
}

std::string no_option(const std::string& word, const CLI::App& app) {
  const std::string given = word.substr(0, word.find('='));
  std::vector<std::string> names;
  for (const auto* option : app.get_options())
    if (!option->get_group().empty())  // otherwise the option is hidden
      for (const auto& name : option->get_lnames()) names.push_back("--" + name);
  const auto meant = nearest(given, names);
  return meant.empty() ? "there is no option " + given
                       : fmt::format("there is no option {}; did you mean {}?", given, meant);
}

std::string options_before_command(std::span<char* const> words, const CLI::App& app) {
  if (words.empty() || *words.front() != '-') return {};
  const auto subs = app.get_subcommands({});
  const auto is_command = [&](const char* word) {
    return std::ranges::any_of(subs, [&](const CLI::App* sub) { return sub->get_name() == word; });
  };
  const auto command = std::ranges::find_if(words, is_command);
  if (command == words.end()) return {};
  std::string meant = "muster " + std::string(*command);
  for (auto word = words.begin(); word != words.end(); ++word)
    if (word != command) meant += " " + std::string(*word);
  return fmt::format("'{}' stands before the command; options come after it: {}", words.front(), meant);
}

std::string no_command(std::span<char* const> words, const CLI::App& app) {
  const auto word = std::ranges::find_if(words, [](const char* each) { return *each != '-'; });
  if (word == words.end()) return {};
  std::vector<std::string> names;
  for (const auto* sub : app.get_subcommands({})) names.push_back(sub->get_name());
  const auto meant = nearest(*word, names);
  return meant.empty() ? fmt::format("there is no command '{}'; the commands are {}", *word, join(names, ", "))
                       : fmt::format("there is no command '{}'; did you mean {}?", *word, meant);
}

}  // namespace muster::cli
