"""One daemon for all in-process tests. Tests that kill or fill a daemon start their own."""

from __future__ import annotations

import os

import pytest

from daemon import Daemon


@pytest.fixture(scope="session")
def shared_daemon():
    daemon = Daemon("--memory", "2GiB")
    os.environ["MUSTER_SOCKET"] = daemon.socket
    yield daemon
    daemon.stop()


@pytest.fixture
def muster(shared_daemon):
    import muster

    muster.init()
    return muster


@pytest.fixture
def own_daemon():
    daemon = Daemon("--memory", "1GiB")
    yield daemon
    daemon.stop()
