// The command line of `muster`: from words to one command's options.
#pragma once

#include <variant>

#include "bench/bench.hpp"
#include "daemon/daemon_commands.hpp"
#include "doctor/doctor.hpp"
#include "exit_status.hpp"
#include "run/run.hpp"

namespace muster::cli {

/// An ExitStatus means: the user asked for help and got it, or the command line was wrong and a message said so.
using Command = std::variant<ExitStatus, StartOptions, StopOptions, RunOptions, StatusOptions, ListOptions,
                             GroupsOptions, DoctorOptions, BenchOptions>;

[[nodiscard]] Command parse_arguments(int argc, char** argv);

}  // namespace muster::cli
