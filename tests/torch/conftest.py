"""One daemon for all tests of this folder. This process must not start threads of torch: ranks are forked."""

from fixtures import own_daemon, shared_daemon

__all__ = ["own_daemon", "shared_daemon"]
