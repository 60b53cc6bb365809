"""Each test has a daemon of its own, so everything that is left in it comes from this test."""

import resource

import pytest

pytest.register_assert_rewrite("chaos_harness", "raw_client")

from chaos_harness import HealthyPair, wait_empty  # noqa: E402

from daemon import Daemon  # noqa: E402


@pytest.fixture
def daemon(request):
    """A test may give parameters: memory, fds_max, maps_max."""
    given = getattr(request, "param", {})
    options = ("--memory", given.get("memory", "256MiB"), "--pickle-lease", "0.02")
    if "maps_max" in given:
        options += ("--maps-max", str(given["maps_max"]))
    daemon = Daemon(*options, fds_max=given.get("fds_max"))
    yield daemon
    print(daemon.output())
    daemon.stop()


@pytest.fixture
def pair(daemon):
    """Runs two healthy ranks beside the test. When they and all others have gone, nothing may be left."""
    with HealthyPair(daemon) as pair:
        yield pair
        pair.goes_on()
    wait_empty(daemon)


@pytest.fixture
def many_descriptors():
    """Lets this process have as many descriptors as it may, for the duration of the test."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield before[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
