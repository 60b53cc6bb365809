// Only this file and parse_errors.cpp include CLI11, which takes long to compile.
#include "arguments.hpp"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <map>
#include <type_traits>
#include <utility>

#include <fmt/format.h>

#include <muster/ipc/byte_count.hpp>
#include <muster/ipc/daemon_options.hpp>
#include <muster/ipc/records.hpp>

#include "help.hpp"
#include "message.hpp"
#include "parse_errors.hpp"
#include "text.hpp"

namespace muster::cli {

namespace {

/// The options of all subcommands. The named subcommand says which of them count.
struct Parsed {
  StartOptions start;
  StopOptions stop;
  RunOptions run;
  double grace_s = 5;
  bool keep_going = false;
  StatusOptions status;
  ListOptions list;
  GroupsOptions groups;
  DoctorOptions doctor;
  BenchOptions bench;
};

/// Messages call "-d,--datatype" --datatype.
std::string long_name(const std::string& flags) { return flags.substr(flags.rfind(',') + 1); }

/// Accepts whole numbers where the bounds are whole, and any numbers elsewhere. --help does not show the bounds.
template <class T>
CLI::Validator within(T low, T high) {
  const auto check = [low, high](const std::string& word) -> std::string {
    T value{};
    const auto* end = word.data() + word.size();
    const auto [stopped, error] = std::from_chars(word.data(), end, value);
    if (error == std::errc() && stopped == end && value >= low && value <= high) return {};
    const char* kind = std::is_integral_v<T> ? "whole number" : "number";
    return fmt::format("'{}' is not a {} from {} to {}", word, kind, low, high);
  };
  return {check, ""};
}

/// Asks musterd's own check about the value.
CLI::Validator taken_by_daemon(const ipc::DaemonOption& option) {
  const auto check = [&option](const std::string& text) {
    const auto parsed = ipc::parse_daemon_option(option, text);
    if (parsed) return std::string();
    const auto& error = parsed.error();
    return error.hint().empty() ? error.message() : fmt::format("{}; {}", error.message(), error.hint());
  };
  return {check, ""};
}

/// Words and their meanings, in the order in which messages list them.
template <class T>
using Choices = std::vector<std::pair<std::string, T>>;

template <class T>
Choices<T> by_name(std::initializer_list<T> all) {
  Choices<T> table;
  for (const T one : all) table.emplace_back(std::string(name(one)), one);
  return table;
}

Choices<DType> dtypes() {
  Choices<DType> table;
  for (std::size_t i = 0; i < dtype_count; ++i) table.emplace_back(name(static_cast<DType>(i)), static_cast<DType>(i));
  // nccl-tests' names
  table.insert(table.end(), {{"float", DType::float32}, {"double", DType::float64}, {"half", DType::float16}});
  return table;
}

Choices<ReduceOp> reduce_ops() {
  Choices<ReduceOp> table;
  for (std::size_t i = 0; i < reduce_op_count; ++i)
    table.emplace_back(name(static_cast<ReduceOp>(i)), static_cast<ReduceOp>(i));
  table.emplace_back("avg", ReduceOp::mean);
  return table;
}

template <class T>
std::string names_of(const Choices<T>& table) {
  std::vector<std::string> names;
  names.reserve(table.size());
  for (const auto& [one, ignored] : table) names.push_back(one);
  return join(names, ", ");
}

template <class T>
std::string none_of(const std::string& word, const Choices<T>& table) {
  std::vector<std::string> names;
  for (const auto& [one, ignored] : table) names.push_back(one);
  const auto meant = nearest(word, names);
  return fmt::format("'{}' is none of: {}{}", word, join(names, ", "),
                     meant.empty() ? "" : fmt::format("; did you mean {}?", meant));
}

/// An option whose value is one of the table's words.
template <class T>
CLI::Option* add_choice(CLI::App* app, const std::string& flags, T& target, const Choices<T>& table,
                        const std::string& description) {
  const auto set = [&target, table, flags](const std::string& word) {
    const auto found = std::ranges::find(table, word, &std::pair<std::string, T>::first);
    if (found == table.end()) throw CLI::ValidationError(long_name(flags), none_of(word, table));
    target = found->second;
  };
  return app->add_option_function<std::string>(flags, set, description);
}

CLI::Option* add_size(CLI::App* app, const std::string& flags, std::uint64_t& target, const std::string& description) {
  const auto set = [&target, flags](const std::string& word) {
    const auto parsed = ipc::parse_bytes(word);
    if (!parsed)
      throw CLI::ValidationError(long_name(flags),
                                 fmt::format("{}; {}", parsed.error().message(), parsed.error().hint()));
    target = *parsed;
  };
  return app->add_option_function<std::string>(flags, set, description)->type_name("SIZE");
}

void add_socket(CLI::App* app, std::string& socket) {
  app->add_option("--socket", socket, "the daemon's socket [$MUSTER_SOCKET, else the user's default]")
      ->type_name("PATH");
}

void add_memory(CLI::App* app, std::string& memory, const std::string& description) {
  app->add_option("--memory", memory, description)
      ->check(taken_by_daemon(ipc::daemon_option("--memory")))
      ->type_name("SIZE");
}

void add_setting(CLI::App* app, const ipc::DaemonOption& option, std::map<std::string, std::string>& settings) {
  const std::string flag(option.flag);
  app->add_option_function<std::string>(
         flag, [&settings, flag](const std::string& text) { settings[flag] = text; }, std::string(option.help))
      ->check(taken_by_daemon(option))
      ->type_name(std::string(option.placeholder));
}

void add_json(CLI::App* app, bool& json) { app->add_flag("--json", json, "print JSON for programs"); }

void add_start_and_stop(CLI::App& app, Parsed& parsed) {
  auto* start = app.add_subcommand("start", "start this node's daemon in the background");
  for (const auto& option : ipc::daemon_options())
    if (!option.of_starter && option.flag != "--socket") add_setting(start, option, parsed.start.settings);
  start->add_option("--config", parsed.start.config, "TOML file with musterd's options [$MUSTER_CONFIG]")
      ->check(CLI::ExistingFile.description(""))
      ->type_name("FILE");
  add_socket(start, parsed.start.socket);
  add_json(start, parsed.start.json);
  start->footer(help_footer("start"));

  auto* stop = app.add_subcommand("stop", "end this node's daemon");
  stop->add_option("--timeout", parsed.stop.timeout_s, "seconds to wait until it has ended")
      ->check(within(0.0, 86'400.0))
      ->capture_default_str();
  add_socket(stop, parsed.stop.socket);
  add_json(stop, parsed.stop.json);
  stop->footer(help_footer("stop"));
}

void add_run(CLI::App& app, Parsed& parsed) {
  auto* run = app.add_subcommand("run", "start n ranks of a program on this node");
  run->add_option("-n,--ranks", parsed.run.ranks, "how many ranks")
      ->check(within(1, ipc::world_size_max))
      ->capture_default_str();
  run->add_option("--group", parsed.run.group, "the group's name, given to the ranks as MUSTER_GROUP [one of its own]");
  run->add_option("--grace", parsed.grace_s, "seconds between SIGTERM and SIGKILL")
      ->check(within(0.0, 86'400.0))
      ->capture_default_str();
  run->add_flag("--keep-going", parsed.keep_going, "when a rank fails, let the others go on");
  add_memory(run, parsed.run.memory, "memory of the daemon, if one has to be started");
  add_socket(run, parsed.run.socket);
  run->prefix_command();
  run->footer(help_footer("run"));
}

void add_views(CLI::App& app, Parsed& parsed) {
  auto* status = app.add_subcommand("status", "show the daemon, its memory and its clients");
  add_socket(status, parsed.status.socket);
  add_json(status, parsed.status.json);
  status->footer(help_footer("status"));

  auto* list = app.add_subcommand("ls", "show the objects in the store and who holds them");
  list->add_option("--limit", parsed.list.limit, "show at most this many objects")
      ->check(within<decltype(parsed.list.limit)>(0, 1'000'000'000))
      ->capture_default_str();
  add_socket(list, parsed.list.socket);
  add_json(list, parsed.list.json);
  list->footer(help_footer("ls"));

  auto* groups = app.add_subcommand("groups", "show the groups and their seats");
  add_socket(groups, parsed.groups.socket);
  add_json(groups, parsed.groups.json);
  groups->footer(help_footer("groups"));

  auto* doctor = app.add_subcommand("doctor", "check what this machine offers, and say how to mend it");
  doctor->add_option("--timeout", parsed.doctor.timeout_s, "seconds that the GPUs' driver may take to answer")
      ->check(within(0.001, 86'400.0))
      ->capture_default_str();
  doctor->add_option("--nccl-so", parsed.doctor.nccl_so, "NCCL's library, and no other [as the running daemon]")
      ->type_name("PATH");
  doctor->add_option("--nccl-wheel", parsed.doctor.nccl_wheel, "NCCL's library in a Python environment [the same]")
      ->type_name("PATH");
  add_socket(doctor, parsed.doctor.socket);
  add_json(doctor, parsed.doctor.json);
  doctor->footer(help_footer("doctor"));
}

void add_bench(CLI::App& app, Parsed& parsed) {
  using enum BenchOp;
  auto& bench = parsed.bench;
  auto* sub = app.add_subcommand("bench", "measure a collective, as nccl-tests do, and check every result");
  const auto ops = by_name(
      {allreduce, reduce, broadcast, allgather, gather, scatter, reduce_scatter, all_to_all, sendrecv, barrier});
  add_choice(sub, "collective", bench.op, ops, "one of: " + names_of(ops))->required()->type_name("OP");
  sub->add_option("-n,--ranks", bench.ranks, "rank processes")->check(within(1, 64))->capture_default_str();
  add_size(sub, "-b,--minbytes", bench.bytes_min, "smallest input of one rank [1K]");
  add_size(sub, "-e,--maxbytes", bench.bytes_max, "largest input of one rank [64M]");
  sub->add_option("-f,--stepfactor", bench.factor, "factor from one size to the next")
      ->check(within(std::uint64_t{2}, std::uint64_t{1} << 40))
      ->capture_default_str();
  sub->add_option("-w,--warmup_iters", bench.warmups, "rounds that are not timed")
      ->check(within(0, 1'000'000))
      ->capture_default_str();
  sub->add_option("-i,--iters", bench.iterations, "rounds that are timed")
      ->check(within(1, 1'000'000))
      ->capture_default_str();
  add_choice(sub, "-d,--datatype", bench.dtype, dtypes(), "dtype, as NumPy names it [float32]")->type_name("DTYPE");
  add_choice(sub, "-o,--op", bench.redop, reduce_ops(), "sum, prod, min, max, mean, band, bor, bxor, land, lor [sum]")
      ->type_name("REDOP");
  sub->add_option("-r,--root", bench.root, "the root, if the op has one")->check(within(0, 63))->capture_default_str();
  add_choice(sub, "--variant", bench.variant,
             by_name({BenchVariant::default_, BenchVariant::out, BenchVariant::first_read}),
             "default: until the result is mapped; out: copied out; first_read: every page read")
      ->type_name("VARIANT");
  sub->add_option("-c,--check", bench.check, "check the values of every result")->capture_default_str();
  sub->add_flag("--plant-error", bench.plant_error)->group("");
  sub->add_option("-T,--timeout", bench.timeout_s, "seconds that one op may take")
      ->check(within(0.001, 86'400.0))
      ->capture_default_str();
  add_memory(sub, bench.memory, "memory of the daemon, if one has to be started");
  add_socket(sub, bench.socket);
  add_json(sub, bench.json);
  sub->footer(help_footer("bench"));
}

Command chosen(const std::string& command, Parsed& parsed) {
  if (command == "start") return parsed.start;
  if (command == "stop") return parsed.stop;
  if (command == "status") return parsed.status;
  if (command == "ls") return parsed.list;
  if (command == "groups") return parsed.groups;
  if (command == "doctor") return parsed.doctor;
  if (command == "bench") return parsed.bench;
  if (parsed.keep_going) parsed.run.on_failure = OnFailure::keep_going;
  parsed.run.grace = std::chrono::milliseconds(static_cast<std::int64_t>(parsed.grace_s * 1000));
  return parsed.run;
}

/// Checks what the ranges of single options can't express.
std::string misuse_of(const BenchOptions& bench) {
  if (bench.bytes_min > bench.bytes_max)
    return fmt::format("-b {} is more than -e {}", ipc::bytes_text(bench.bytes_min), ipc::bytes_text(bench.bytes_max));
  if (bench.root < 0 || bench.root >= bench.ranks)
    return fmt::format("--root {} is none of the ranks 0..{}", bench.root, bench.ranks - 1);
  if (!result_dtype(bench.dtype, bench.redop))
    return fmt::format("{} has no meaning on {}", name(bench.redop), name(bench.dtype));
  return {};
}

std::string misuse_of(const RunOptions& run) {
  if (!run.command.empty()) return {};
  return fmt::format("no program to run: muster run -n {} -- PROGRAM [ARGUMENTS...]", run.ranks);
}

/// Without --, the program's words are those that are not options. Returns what is wrong with them.
std::string take_command(const CLI::App& run, RunOptions& options) {
  auto words = run.remaining();
  if (words.empty()) return {};
  if (words.front().starts_with('-')) return no_option(words.front(), run);
  if (!options.command.empty())
    return fmt::format("'{}' stands before --, and the program comes after it", words.front());
  options.command = std::move(words);
  return {};
}

/// `muster help start` is `muster start --help`.
std::vector<char*> without_help_command(std::vector<char*> words) {
  static char help[] = "--help";
  if (words.size() < 2 || std::string_view(words[1]) != "help") return words;
  words.erase(words.begin() + 1);
  words.push_back(help);
  return words;
}

/// What is wrong with words that the parser took; empty if nothing is.
std::string misuse_of(const CLI::App& sub, Parsed& parsed) {
  if (sub.get_name() == "bench") return misuse_of(parsed.bench);
  if (sub.get_name() != "run") return "";
  const std::string misuse = take_command(sub, parsed.run);
  return misuse.empty() ? misuse_of(parsed.run) : misuse;
}

Command parse_words(int argc, char* const* argv) {
  CLI::App app("", "muster");
  app.set_help_flag("");
  bool help = false;
  bool version = false;
  app.add_flag("-h,--help", help, "");
  app.add_flag("-V,--version", version, "");
  app.require_subcommand(0, 1);
  Parsed parsed;
  add_start_and_stop(app, parsed);
  add_run(app, parsed);
  add_views(app, parsed);
  add_bench(app, parsed);
  for (auto* sub : app.get_subcommands({})) sub->set_help_flag("-h,--help", "print this and exit");

  // Everything after the first -- is for the rank's program, even another --.
  char* const* const end =
      std::find_if(argv, argv + argc, [](const char* word) { return std::string_view(word) == "--"; });
  if (end != argv + argc) parsed.run.command.assign(end + 1, argv + argc);
  try {
    app.parse(static_cast<int>(end - argv), argv);
  } catch (const CLI::CallForHelp&) {
    std::fputs(app.get_subcommands().front()->help("muster").c_str(), stdout);
    return ExitStatus::ok;
  } catch (const CLI::ParseError& error) {
    if (const auto message = options_before_command({argv + 1, argv + argc}, app); !message.empty())
      return complain_usage("", message);
    if (const auto chosen = app.get_subcommands(); !chosen.empty())
      return complain_usage(chosen.front()->get_name(), text_of(error, *chosen.front()));
    const auto message = no_command({argv + 1, end}, app);
    return complain_usage("", message.empty() ? text_of(error, app) : message);
  }
  if (version) {
    std::fputs(("muster " MUSTER_VERSION "\n"), stdout);
    return ExitStatus::ok;
  }
  if (help || app.get_subcommands().empty()) {
    std::fputs(main_help().c_str(), stdout);
    return ExitStatus::ok;
  }
  const CLI::App& sub = *app.get_subcommands().front();
  if (const auto misuse = misuse_of(sub, parsed); !misuse.empty()) return complain_usage(sub.get_name(), misuse);
  return chosen(sub.get_name(), parsed);
}

}  // namespace

Command parse_arguments(int argc, char** argv) {
  const auto words = without_help_command({argv, argv + argc});
  return parse_words(static_cast<int>(words.size()), words.data());
}

}  // namespace muster::cli
