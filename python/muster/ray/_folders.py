"""Where the daemons of Ray's nodes have their sockets."""

from __future__ import annotations

import os
import pathlib
import stat

from muster.errors import Denied


def sockets() -> pathlib.Path:
    """The folder in which a keeper's daemon listens."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    return pathlib.Path(base, "muster-ray") if base else pathlib.Path(f"/tmp/muster-{os.getuid()}", "ray")


def make_folder(folder: pathlib.Path) -> None:
    """Makes a folder that only this user can change.

    Raises:
        Denied: somebody else has it, or may write there.
    """
    for each in (folder.parent, folder):
        each.mkdir(mode=0o700, exist_ok=True)
    for each in (folder.parent, folder):
        found = each.lstat()
        if found.st_uid != os.getuid() or found.st_mode & 0o022 or not stat.S_ISDIR(found.st_mode):
            raise Denied(f"{each} is not a folder that only this user may change", "remove it, or set XDG_RUNTIME_DIR")
