"""Errors that are of torch and of Muster: scripts written for other backends catch ``DistBackendError``."""

from __future__ import annotations

from typing import Any

from torch.distributed import DistBackendError

from muster.errors import _ALL, Error


class _OfTorch(DistBackendError):  # type: ignore[misc]
    """The part that an error has of torch."""

    code: str
    message: str
    hint: str
    ranks: list[int]

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (self.code, self.message, self.hint, self.ranks)


#: The class for each class of Muster. It keeps the name, so that a trace shows ``Timeout``.
_BOTH: dict[str, Any] = {
    kind.code: type(kind.__name__, (kind, _OfTorch), {"__doc__": kind.__doc__, "__module__": __name__}) for kind in _ALL
}
_BY = "[muster] "
#: What to do then under torch, which has no ``reform()``, no refs, and no ``join()``.
_NEW_GROUP = "destroy the process group, and make a new one"
_HINTS = {
    "PeerLost": f"{_NEW_GROUP}; torchrun --max-restarts does",
    "DaemonRestarted": _NEW_GROUP,
    "GroupClosed": "it was destroyed, or aborted: make a new process group",
}
#: Torch's calls have no such arguments.
_NOT_UNDER_TORCH = "; where threads make order unsure, match calls by key="
#: What Gloo says then, which scripts look for.
_WORDS = {"Timeout": "Timed out waiting", "PeerLost": "Connection closed by peer"}


def of_torch(error: BaseException, hint: str | None = None) -> BaseException:
    """Returns an error of Muster as one that is an error of torch, too; any other error as it is.

    ``hint``: what to do, where that is not what it is in general.
    """
    if not isinstance(error, Error) or isinstance(error, DistBackendError):
        return error
    words = _WORDS.get(error.code)
    if hint is None:
        hint = _HINTS.get(error.code, error.hint).replace(_NOT_UNDER_TORCH, "")
    return _made(error.code, f"{_BY}{words}: {error.message}" if words else error.message, hint, error.ranks)


def copy_of(error: BaseException) -> BaseException:
    """Returns an error without the frames that it has passed, which keep what is in them. Others stay as they are."""
    if not isinstance(error, Error):
        return error
    return _made(error.code, error.message, error.hint, error.ranks)


def of_torch_in_words(error: Error, words: str) -> BaseException:
    """Returns an error of both that begins with these words, too."""
    return _made(error.code, f"{_BY}{words}: {error.message.removeprefix(_BY)}", error.hint, error.ranks)


def _made(code: str, message: str, hint: str, ranks: list[int]) -> BaseException:
    made: BaseException = _BOTH[code](message, hint, ranks)
    return made
