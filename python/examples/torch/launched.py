"""What the examples of this folder need of whoever started them."""

from __future__ import annotations

import os
import signal


def from_muster_run() -> None:
    """torch reads other names of variables than ``muster run`` sets. The store's port is torch's usual one."""
    if "MUSTER_RANK" in os.environ and "RANK" not in os.environ:
        os.environ.update(RANK=os.environ["MUSTER_RANK"], WORLD_SIZE=os.environ["MUSTER_WORLD_SIZE"])
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", "29500")


def kill_last_rank() -> None:
    """Ends the last rank as the kernel does when memory is short. The other ranks go on."""
    if os.environ["RANK"] == str(int(os.environ["WORLD_SIZE"]) - 1):
        os.kill(os.getpid(), signal.SIGKILL)
