// Where a node's daemon listens, and whether that place can be trusted: another user who makes it first could pose as
// the daemon and read everything.
#pragma once

#include <sys/un.h>

#include <string>

#include <muster/ipc/fd.hpp>
#include <muster/result.hpp>

namespace muster::ipc {

/// $MUSTER_SOCKET, else $XDG_RUNTIME_DIR/muster/musterd.sock, else /run/muster/musterd.sock (root) or
/// /tmp/muster-$UID/musterd.sock.
[[nodiscard]] std::string default_socket_path();

/// What was given, or else the default, as an absolute path: a daemon has another working directory than who starts it,
/// and a process may change its own.
[[nodiscard]] std::string socket_path(const std::string& given);

/// For bind() and connect(). Invalid if the path is empty, or longer than a Unix socket's may be.
[[nodiscard]] Result<sockaddr_un> unix_address(const std::string& socket_path);

/// Makes the socket's directory (mode 0700) if there is none. Denied if it can't be made, or if it is the one that this
/// user gets without asking for another and it belongs to somebody else (root may) or others may write to it.
[[nodiscard]] Result<void> make_place(const std::string& socket_path);

/// Denied if another user's process (root may) listens at the place that this user gets without asking for another.
[[nodiscard]] Result<void> check_listener(const Fd& connected, const std::string& socket_path);

/// Whether somebody accepts connections there, busy or not.
[[nodiscard]] bool is_served(const std::string& socket_path);

}  // namespace muster::ipc
