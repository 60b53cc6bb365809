"""A rank that is lost, for the examples of this folder."""

from __future__ import annotations

import os
import signal


def kill_last_rank() -> None:
    """Ends the last rank as the kernel does when memory is short. The other ranks go on."""
    if os.environ["RANK"] == str(int(os.environ["WORLD_SIZE"]) - 1):
        os.kill(os.getpid(), signal.SIGKILL)
