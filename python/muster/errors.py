"""The errors that Muster raises. Each has a stable ``code``, a ``hint`` that says what to try, and ``ranks``."""

from __future__ import annotations

from collections.abc import Sequence


class Error(Exception):
    """Base of all errors of Muster.

    Attributes:
        code: the stable name of the kind of error, for instance ``"Timeout"``.
        message: what happened, with the values involved.
        hint: what to try; may be empty.
        ranks: the ranks that the error is about, in rising order; empty if it is about none.
    """

    code = "Error"

    def __init__(self, message: str = "", hint: str = "", ranks: Sequence[int] = ()) -> None:
        super().__init__(message, hint, list(ranks))
        self.message = message
        self.hint = hint
        self.ranks = list(ranks)

    def __str__(self) -> str:
        return f"{self.message} (hint: {self.hint})" if self.hint else self.message


class Mismatch(Error, ValueError):
    """The ranks of one op disagree on kind, dtype, shape, root or reduce op; ``ranks`` names the ranks that differ."""

    code = "Mismatch"


class Invalid(Error, ValueError):
    """The call or its arguments can't work."""

    code = "Invalid"


class Timeout(Error, TimeoutError):
    """A deadline passed; ``ranks`` names the missing ranks."""

    code = "Timeout"


class PeerLost(Error, ConnectionError):
    """``ranks`` died or left before they contributed."""

    code = "PeerLost"


class OutOfMemory(Error, MemoryError):
    """The store stayed full until the deadline; the message says who holds what."""

    code = "OutOfMemory"


class QuotaExceeded(Error, MemoryError):
    """A limit of this process or user was reached."""

    code = "QuotaExceeded"


class ObjectLost(Error, LookupError):
    """The object of a ref is gone; the message says why."""

    code = "ObjectLost"


class GroupClosed(Error):
    """This process has left the group."""

    code = "GroupClosed"


class DaemonUnavailable(Error, ConnectionError):
    """There is no daemon, or it has ended."""

    code = "DaemonUnavailable"


class DaemonRestarted(Error, ConnectionError):
    """The daemon that made the ref has ended, and another one runs now."""

    code = "DaemonRestarted"


class NoQuorum(Error, ConnectionError):
    """This node is cut off from the majority of the cluster."""

    code = "NoQuorum"


class Denied(Error, PermissionError):
    """The object or resource belongs to another user or process."""

    code = "Denied"


_ALL = (
    Error,
    Mismatch,
    Invalid,
    Timeout,
    PeerLost,
    OutOfMemory,
    QuotaExceeded,
    ObjectLost,
    GroupClosed,
    DaemonUnavailable,
    DaemonRestarted,
    NoQuorum,
    Denied,
)
_BY_CODE = {error.code: error for error in _ALL}


def by_code(code: str) -> type[Error]:
    """Returns the class of a code; ``Error`` for a code that this version does not know."""
    return _BY_CODE.get(code, Error)
