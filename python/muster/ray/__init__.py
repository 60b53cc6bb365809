"""Muster under Ray: results of marked tasks and actor methods stay in Muster's store, and Ray keeps small refs of them.

Call ``muster.ray.init()`` instead of ``ray.init()``. Then functions and methods that are marked with
``@muster.collective_input`` may be tasks and methods of actors::

    import muster, muster.ray, ray

    muster.ray.init()

    @ray.remote
    @muster.collective_input
    def gradient(weights, shard): ...

    refs = [gradient.remote(weights, shard) for shard in shards]   # ObjectRefs of small refs
    mean = muster.allreduce_refs(refs, op="mean")                  # a work, while the tasks still run
    update.remote(mean.ref)                                        # arrives in the task as a muster.Ref

An object is freed when Ray's last reference to its task's result is gone.
"""

from muster.ray import _backend, _hooks, _transport
from muster.ray._cluster import hook, init, shutdown
from muster.ray._graphs import Communicator
from muster.ray._placing import near
from muster.ray._seats import ActorGroup, Seat, create_group, group
from muster.ray._shares import share
from muster.ray._values import get

__all__ = [
    "ActorGroup",
    "Communicator",
    "Seat",
    "create_group",
    "get",
    "group",
    "hook",
    "init",
    "near",
    "share",
    "shutdown",
]

_hooks.check()
_backend.register()
_transport.register()
