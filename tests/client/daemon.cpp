#include "daemon.hpp"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <utility>

#include "core/connection.hpp"
#include "core/requests.hpp"

extern char** environ;

namespace muster::test {

TempFolder::TempFolder() {
  std::string pattern = (std::filesystem::temp_directory_path() / "muster-client-XXXXXX").string();
  if (!::mkdtemp(pattern.data())) throw std::runtime_error("mkdtemp");
  path_ = pattern;
}

TempFolder::~TempFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

Daemon::Daemon(const std::string& memory) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("pipe2");
  constexpr int ready_as = 3;
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, 1, (folder_.path() + "/log").c_str(), O_WRONLY | O_CREAT, 0600);
  ::posix_spawn_file_actions_adddup2(&actions, 1, 2);
  ::posix_spawn_file_actions_adddup2(&actions, ends[1], ready_as);
  std::string words[] = {MUSTERD_PATH, "--socket", socket(), "--memory", memory, "--ready-fd", "3"};
  char* arguments[std::size(words) + 1] = {};
  for (std::size_t i = 0; i < std::size(words); ++i) arguments[i] = words[i].data();
  if (::posix_spawn(&pid_, MUSTERD_PATH, &actions, nullptr, arguments, environ) != 0)
    throw std::runtime_error("can't start " MUSTERD_PATH);
  ::posix_spawn_file_actions_destroy(&actions);
  ::close(ends[1]);
  char byte = 0;
  const bool ready = ::read(ends[0], &byte, 1) == 1 && byte == '0';
  ::close(ends[0]);
  if (!ready) throw std::runtime_error("the daemon did not start");
}

Client Daemon::connect() const {
  ConnectOptions options;
  options.socket = socket();
  options.start_daemon = false;
  return Client::connect(options).value();
}

void Daemon::kill(int signal) {
  if (pid_ <= 0) return;
  ::kill(pid_, signal);
  if (signal == SIGSTOP || signal == SIGCONT) return;
  if (signal == SIGKILL) ::kill(pid_, SIGCONT);
  ::waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

int Daemon::end() {
  ::kill(pid_, SIGTERM);
  int status = 0;
  ::waitpid(std::exchange(pid_, -1), &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

pid_t in_child(const std::function<bool()>& body) {
  const pid_t child = ::fork();
  if (child != 0) return child;
  bool good = false;
  try {
    good = body();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "child: %s\n", error.what());
  }
  ::_exit(good ? 0 : 1);
}

bool succeeded(pid_t child) {
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

Ref filled(Client& client, std::int64_t count, float value) {
  auto buffer = client.allocate<float>({count}).value();
  for (auto& element : buffer.span()) element = value;
  return std::move(buffer).seal().value();
}

std::uint64_t memory_used(const Client& client) {
  namespace wire = ipc::wire;
  auto packet = detail::ask(*client.connection(), wire::Body_StatusQuery, std::chrono::seconds(10), [](auto& fbb) {
                  return wire::CreateStatusQuery(fbb).Union();
                }).value();
  return wire::GetFrame(packet.bytes.data())->body_as_StatusReply()->memory_used_bytes();
}

std::vector<float> floats(const Ref& ref) {
  const auto views = ref.get().value();
  const auto span = views.at(0).span<float>();
  return {span.begin(), span.end()};
}

}  // namespace muster::test
