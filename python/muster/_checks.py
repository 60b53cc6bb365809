"""Checks of arguments that several calls take."""

from __future__ import annotations

from typing import Any

import numpy as np

from muster.errors import Invalid


def flag(name: str, value: Any) -> bool:
    """Returns ``value``, which must be True or False: "no" would count as true."""
    if not isinstance(value, (bool, np.bool_)):
        raise Invalid(f"{name}={value!r} is not valid", "give True or False")
    return bool(value)
