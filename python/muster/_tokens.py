"""Tokens: names under which another system keeps objects in the store."""

from __future__ import annotations

from types import TracebackType

from muster import _muster, _runtime
from muster._words import a_type_of
from muster.errors import Invalid


class Token:
    """An open token: ``ref.keep_for(token.name)`` puts objects under it, in any process of this user.

    It ends with ``end()``, with the ``with`` block, with this Python object, or with this process. Then its objects go,
    unless somebody else holds them.

    Attributes:
        name: what other processes call it.
    """

    __slots__ = ("_native",)

    def __init__(self, native: _muster.Token) -> None:
        if not isinstance(native, _muster.Token):
            raise Invalid(f"muster.Token({native!r}) is not a token", "tokens come from open_token()")
        self._native = native

    @property
    def name(self) -> str:
        return self._native.name

    def end(self) -> None:
        """Ends the token now; nothing happens if it was ended here before.

        Raises:
            Invalid: another process has ended it.
        """
        if self._native.open:
            self._native.end()

    def __enter__(self) -> Token:  # noqa: PYI034
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    def __repr__(self) -> str:
        return f"<muster.Token {self.name!r}{'' if self._native.open else ', ended'}>"


def open_token(name: str) -> Token:
    """Opens a token: a name under which objects stay in the store while something lives that Muster does not know.

    The process that will hear of that thing's end opens the token, and ends it then. Any process of the same user may
    put objects under it with ``ref.keep_for(name)``, also after the maker of the object is gone. ``muster ls`` shows
    it among the holders.

    Args:
        name: 1 to 256 bytes of text, one of a kind for this user.

    Raises:
        Invalid: a token of that name is open, or this is no name.
        QuotaExceeded: this process has too many tokens, or too many objects under them.
    """
    return Token(_muster.open_token(_runtime.connection(), checked_name(name)))


def end_token(name: str) -> None:
    """Ends a token that any process of this user opened.

    Raises:
        Invalid: no such token is open.
    """
    _muster.end_token(_runtime.connection(), checked_name(name))


def checked_name(name: str | Token) -> str:
    """The name of a token as the daemon takes it."""
    if isinstance(name, Token):
        return name.name
    if not isinstance(name, str):
        raise Invalid(f"a token's name is a str, not {a_type_of(name)}", "give the name that open_token() got")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise Invalid(f"{name!r} can't be a token's name: it is not valid text", "use other characters") from None
    return name
