"""Which torch this package works with, and what in its settings keeps the backend from being used."""

from __future__ import annotations

import re
import warnings
from typing import Any

import torch

from muster.errors import Invalid

#: What a class of Python overrides of torch's differs from one version of torch to the next.
_OLDEST, _NEWEST = (2, 13), (2, 14)
_FIRST_WITH_BACKENDS = (2, 14)
_HINT = "install torch 2.13 or 2.14"


def check() -> None:
    """Looks at the torch of this process.

    Raises:
        Invalid: it has no ``torch.distributed``, or is too old or too new.
    """
    check_version(torch.__version__)
    if not torch.distributed.is_available():
        raise Invalid(f"torch {torch.__version__} is built without torch.distributed", "install one that has it")
    _warn_of_torchcomms()


def check_version(version: str) -> None:
    number = _number(version)
    if not _OLDEST <= number <= _NEWEST:
        word = "old" if number < _OLDEST else "new"
        raise Invalid(f"torch {version} is too {word} for the backend 'muster'", _HINT)


def has_backends() -> bool:
    """Whether this torch lets classes of Python be backends of its process groups."""
    return _number(torch.__version__) >= _FIRST_WITH_BACKENDS


def _number(version: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None:
        raise Invalid(f"the version of torch makes no sense: {version!r}", _HINT)
    return int(found[1]), int(found[2])


def _warn_of_torchcomms() -> None:
    """torch asks torchcomms for every backend then, by name, and never the one that is registered here."""
    c10d: Any = torch.distributed.distributed_c10d
    if not has_backends() and c10d._use_torchcomms_enabled():
        warnings.warn(
            "TORCH_DISTRIBUTED_USE_TORCHCOMMS is set: torch takes all backends from torchcomms, which has none named"
            " 'muster' (hint: unset it)",
            RuntimeWarning,
            stacklevel=4,
        )
