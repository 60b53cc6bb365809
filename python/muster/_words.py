"""Words for messages."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_SPOKEN_VOWEL = re.compile(r"[aeio]|nd|un(?!i)|up", re.IGNORECASE)


def a(name: str) -> str:
    """Adds the article to a name: an int, an ndarray, a float, a ufunc."""
    return f"{'an' if _SPOKEN_VOWEL.match(name) else 'a'} {name}"


def count(number: int, thing: str) -> str:
    """1 value, 2 values."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def one_of(names: Iterable[str]) -> str:
    """'fail', 'shrink' or 'wait'."""
    *others, last = map(repr, names)
    return f"{', '.join(others)} or {last}"


def a_type_of(value: Any) -> str:
    """Names the type of a value: an int, a list."""
    return a(type(value).__name__)
