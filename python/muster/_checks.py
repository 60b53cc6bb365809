"""Checks of arguments that several calls take."""

from __future__ import annotations

from typing import Any

import numpy as np

from muster.errors import Invalid


def size(name: str, value: Any) -> str:
    """Bytes, as the daemon's options take them: "2GiB" or a number. Empty for None."""
    if value is None:
        return ""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value > 0:
        return str(int(value))
    if isinstance(value, str):
        return value
    raise Invalid(f"{name}={value!r} is not valid", "give a size, for instance '2GiB', or a number of bytes")


def flag(name: str, value: Any) -> bool:
    """Returns ``value``, which must be True or False: "no" would count as true."""
    if not isinstance(value, (bool, np.bool_)):
        raise Invalid(f"{name}={value!r} is not valid", "give True or False")
    return bool(value)
