"""Each test has a daemon of its own, so that all that is left in it is this test's."""

import pytest

pytest.register_assert_rewrite("chaos_harness")

from daemon import Daemon  # noqa: E402


@pytest.fixture
def daemon():
    daemon = Daemon("--memory", "256MiB", "--pickle-lease", "0.02")
    yield daemon
    print(daemon.output())
    daemon.stop()
