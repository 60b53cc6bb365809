"""Muster as a backend of ``torch.distributed``: one line of a script changes. ::

    import muster.torch                          # makes the backend known
    torch.distributed.init_process_group("muster")

Everything that ``torch.distributed`` does with tensors of the host and of GPUs goes through the daemon then:
collectives, sends and receives, objects, sub-groups, DDP. Errors are ``torch.distributed.DistBackendError`` and the
error of Muster in one, for instance ``muster.PeerLost``, with the ranks that it is about.

Works with torch 2.13 and 2.14. Importing this raises ``muster.Invalid`` with another torch.
"""

from muster.torch import _versions

_versions.check()

from muster.torch._seat import Seat, register, seat  # noqa: E402
from muster.torch._seat_base import NAME  # noqa: E402
from muster.torch._work import MusterWork  # noqa: E402

__all__ = ["NAME", "MusterWork", "Seat", "register", "seat"]

register()
