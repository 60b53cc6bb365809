"""A Ray cluster of one node with a daemon of Muster, for all tests of this folder."""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import time
from pathlib import Path

import muster.ray
import pytest
import ray
from ray._private.internal_api import memory_summary

HERE = str(Path(__file__).parent)
PATIENCE_S = 60
MEMORY = 256 << 20


@pytest.fixture(scope="session")
def cluster():
    muster.ray.init(
        "local",  # a cluster of its own, whatever else runs on this machine
        memory=MEMORY,
        num_cpus=4,
        object_store_memory=100 << 20,
        include_dashboard=False,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join([HERE, os.environ["PYTHONPATH"]])}},
    )
    yield
    muster.ray.shutdown()


#: Objects that stay as long as the cluster: Ray never lets go of what a function's closure names.
kept_for_good = set()


@pytest.fixture
def objects(cluster):
    """Returns the objects that somebody needs. A test begins and ends with none."""
    until_empty()
    yield needed
    until_empty()


def needed():
    command = [os.environ["MUSTER_CLI"], "ls", "--json", "--socket", os.environ["MUSTER_SOCKET"]]
    told = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=PATIENCE_S).stdout)
    return [row for row in told["objects"] if (row["holders"] or row["in_ops"]) and row["id"] not in kept_for_good]


def until_empty():
    def is_empty():
        gc.collect()
        return not needed()

    until(is_empty, lambda: [(row["id"], row["holders"], row["in_ops"]) for row in needed()])


def until(condition, tell=lambda: None):
    """Waits until a condition holds that another process brings about."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, tell()


def rays_mib():
    """What Ray's own store has in use."""
    told = memory_summary(address=ray.get_runtime_context().gcs_address, stats_only=True)
    return int(re.search(r"Plasma memory usage (\d+) MiB", told)[1])
