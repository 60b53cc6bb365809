from fixtures import muster, own_daemon, shared_daemon

__all__ = ["muster", "own_daemon", "shared_daemon"]
