from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def build() -> Path:
    """The build that these tests belong to."""
    return Path(os.environ["MUSTER_DAEMON"]).parents[1]
