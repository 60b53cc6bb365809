// Where a node's daemon listens, and whether that place can be trusted. Another user who makes it first could pose as
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

/// The given path, or else the default, as an absolute path: a daemon has another working directory than its starter,
/// and a process may change its own.
[[nodiscard]] std::string socket_path(const std::string& given);

/// The address for bind() and connect(). Invalid if the path is empty, or longer than a Unix socket's may be.
[[nodiscard]] Result<sockaddr_un> unix_address(const std::string& socket_path);

/// Makes the socket's directory (mode 0700) if there is none. Denied if it can't be made. The default directory of this
/// user must be safe, too: it is Denied if it belongs to another user than root, or if others may write to it.
[[nodiscard]] Result<void> make_place(const std::string& socket_path);

/// Denied if a process of another user than root listens at the default place of this user.
[[nodiscard]] Result<void> check_listener(const Fd& connected, const std::string& socket_path);

/// The error for a listener that does not answer as a daemon would.
[[nodiscard]] Error not_a_musterd(const std::string& socket_path, const std::string& why);

/// Whether a process accepts connections there, busy or not.
[[nodiscard]] bool is_served(const std::string& socket_path);

}  // namespace muster::ipc
