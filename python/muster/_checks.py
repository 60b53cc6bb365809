"""Checks of arguments that several calls take."""

from __future__ import annotations

from typing import Any

import numpy as np

from muster.errors import Invalid


def check_device(device: Any) -> None:
    """Accepts only the host's memory."""
    if device != "cpu":
        raise Invalid(f"device={device!r}: this Muster has no GPU support", "use device='cpu'")


def flag(name: str, value: Any) -> bool:
    """Returns ``value``, which must be True or False: "no" would count as true."""
    if not isinstance(value, (bool, np.bool_)):
        raise Invalid(f"{name}={value!r} is not valid", "give True or False")
    return bool(value)
