# torch and JAX start threads, and a process with threads must not fork as the other tests do. So run this folder alone.
from fixtures import muster, shared_daemon

__all__ = ["muster", "shared_daemon"]
