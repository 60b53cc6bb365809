"""Tests the `muster` command as a user would: the real executable, and a real daemon on a socket of its own."""

import pathlib
import shutil
import tempfile

import pytest
from cli_harness import Muster, Terminal


@pytest.fixture
def muster():
    folder = pathlib.Path(tempfile.mkdtemp(prefix="muster-cli-"))  # short: a socket's path has 107 bytes at most
    command = Muster(folder)
    yield command
    command.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def terminal():
    made = Terminal()
    yield made
    made.close()
