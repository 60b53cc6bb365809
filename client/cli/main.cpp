// The `muster` command: parses its arguments, runs one command, and returns the command's exit status.
#include <exception>
#include <variant>

#include "arguments.hpp"
#include "message.hpp"

namespace muster::cli {

namespace {

struct Execute {
  int operator()(ExitStatus status) const { return static_cast<int>(status); }
  int operator()(const StartOptions& options) const { return static_cast<int>(start(options)); }
  int operator()(const StopOptions& options) const { return static_cast<int>(stop(options)); }
  int operator()(const StatusOptions& options) const { return static_cast<int>(status(options)); }
  int operator()(const ListOptions& options) const { return static_cast<int>(list(options)); }
  int operator()(const GroupsOptions& options) const { return static_cast<int>(groups(options)); }
  int operator()(const DoctorOptions& options) const { return static_cast<int>(doctor(options)); }
  int operator()(const BenchOptions& options) const { return static_cast<int>(bench(options)); }
  int operator()(const RunOptions& options) const { return run(options); }
};

}  // namespace

}  // namespace muster::cli

int main(int argc, char** argv) {
  try {
    return std::visit(muster::cli::Execute{}, muster::cli::parse_arguments(argc, argv));
  } catch (const std::exception& error) {
    const muster::Error wrapped(muster::Code::failed, error.what(), "this should not happen; please report it");
    return static_cast<int>(muster::cli::complain("", wrapped));
  }
}
