"""Which torch there may be, and what ``import muster.torch`` does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import muster
import pytest
import worlds


def test_a_torch_that_is_too_old_or_too_new():
    from muster.torch import _versions

    _versions.check_version("2.13.1+cpu")
    _versions.check_version("2.14.0")
    for version, words in (("2.12.0", "too old"), ("1.13", "too old"), ("2.15.0a0", "too new"), ("3.0", "too new")):
        with pytest.raises(muster.Invalid, match=words):
            _versions.check_version(version)
    with pytest.raises(muster.Invalid, match="makes no sense"):
        _versions.check_version("unknown")


def test_torchcomms_is_said(tmp_path):
    package = tmp_path / "torchcomms"
    package.mkdir()
    (package / "__init__.py").write_text(
        "def new_comm(*_, **__): raise RuntimeError('no such backend')\ndef is_backend_built(_): return False\n"
    )
    (package / "_comms.py").write_text("class _BackendWrapper: ...\n")
    (package / "hooks.py").write_text("class FlightRecorderHook: ...\n")
    environment = {
        **os.environ,
        "TORCH_DISTRIBUTED_USE_TORCHCOMMS": "1",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]]),
    }
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", "import muster.torch"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=worlds.PATIENCE_S,
    )
    # Newer versions of torch ask torchcomms only for the backends that it has.
    assert ("TORCH_DISTRIBUTED_USE_TORCHCOMMS is set" in done.stderr) is not worlds.GROUP_IS_TORCHS


def test_importing_muster_imports_no_torch():
    told = "import sys, muster; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", told], check=True, timeout=worlds.PATIENCE_S)


def test_the_entry_point_names_what_registers():
    text = Path(__file__).parents[2].joinpath("pyproject.toml").read_text()
    assert '[project.entry-points."torch.distributed.backends"]\nmuster = "muster.torch:register"' in text
