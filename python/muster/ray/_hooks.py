"""All that Muster uses of Ray beyond its documented interface, and a check that this Ray has it.

- ``__ray_invocation_decorator__``, an attribute of a function or method: Ray calls it with the function that submits
  the task, and then calls what it returns.
- The variables ``max_retries`` and ``max_task_retries`` of that function.
- ``extract_signature``: says which arguments a task takes. Marked functions take one more than their author wrote.
- ``ray.experimental.internal_kv``: a table of the whole cluster, kept by its head.
- The actor by which ``ray.util.collective`` tells actors of a group that the driver has declared.
- ``CoreWorker.add_object_out_of_scope_callback``: tells the owner of an object of Ray that nobody refers to it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import ray
from ray._common import signature
from ray._private.worker import global_worker
from ray.experimental import internal_kv

from muster._decorator import CALL, is_marked
from muster.errors import Invalid

VERSIONS = "2.58 to 2.60"
_KV = b"muster"


def check() -> None:
    """Checks that this Ray is one that Muster knows.

    Raises:
        Invalid: it is not; the message names what is missing.
    """
    wanted = {
        "ray._common.signature.extract_signature": hasattr(signature, "extract_signature"),
        "ObjectRef.future": hasattr(ray.ObjectRef, "future"),
        "CoreWorker.add_object_out_of_scope_callback": hasattr(
            ray._raylet.CoreWorker, "add_object_out_of_scope_callback"
        ),
        "__ray_invocation_decorator__": _reads_the_attribute(),
        "max_retries of a submission": "max_retries" in _names_of(ray.remote_function.RemoteFunction._remote),
        "max_task_retries of a submission": "max_task_retries" in _names_of(ray.actor.ActorMethod._remote),
    }
    missing = [name for name, there in wanted.items() if not there]
    if missing:
        raise Invalid(
            f"Ray {ray.__version__} lacks what Muster needs: {', '.join(missing)}",
            f"use Ray {VERSIONS}, or a newer Muster",
        )


def _reads_the_attribute() -> bool:
    def task() -> None: ...

    def decorator(invocation: Any) -> Any:
        return invocation

    task.__ray_invocation_decorator__ = decorator  # type: ignore[attr-defined]
    return getattr(ray.remote(task), "_decorator", None) is decorator


def function_of(remote: Any) -> tuple[Callable[..., Any], dict[str, Any]] | None:
    """Returns the function that ``@ray.remote`` was used on, and its options; None for anything else."""
    if not isinstance(remote, ray.remote_function.RemoteFunction):
        return None
    options = {name: value for name, value in remote._default_options.items() if value is not None}
    return remote._function, options


def id_of_actor(actor: Any) -> str:
    """The id of the actor of a handle, in hex."""
    return str(actor._actor_id.hex())


def timeout_of_declared(group_name: str) -> float | None:
    """The seconds that ``create_collective_group`` gave to a group's ops; None if the group was not declared by it."""
    try:
        declared = ray.get_actor(f"info_{group_name}")
    except ValueError:
        return None
    *_, milliseconds = ray.get(declared.get_info.remote())
    return float(milliseconds) / 1000


def retries_of(invocation: Callable[..., Any]) -> int:
    """How often Ray may retry what ``invocation`` submits; negative: as often as needed."""
    variables = dict(zip(invocation.__code__.co_freevars, invocation.__closure__ or ()))
    found = variables.get("max_retries") or variables.get("max_task_retries")
    return int(found.cell_contents or 0) if found is not None else 0


def _names_of(submits: Any) -> tuple[str, ...]:
    """The variables of a function that functions in it use."""
    return tuple(inspect.unwrap(submits).__code__.co_cellvars)


def when_out_of_scope(ref: ray.ObjectRef, callback: Callable[[bytes], None]) -> bool:
    """Lets Ray call ``callback`` when nothing refers to this process's object any more; it must not block.

    Returns:
        False if that is so already, and nobody will be called.
    """
    return bool(global_worker.core_worker.add_object_out_of_scope_callback(ref, callback))


def kv_get(key: bytes) -> bytes | None:
    """Returns what the cluster has written down under a key."""
    found = internal_kv._internal_kv_get(key, namespace=_KV)
    return None if found is None else bytes(found)


def kv_put(key: bytes, value: bytes) -> None:
    internal_kv._internal_kv_put(key, value, overwrite=True, namespace=_KV)


def kv_add(key: bytes, value: bytes) -> bool:
    """Returns False if the key is there already."""
    return not internal_kv._internal_kv_put(key, value, overwrite=False, namespace=_KV)


def kv_delete(key: bytes) -> None:
    internal_kv._internal_kv_del(key, namespace=_KV)


def _take_calls_argument() -> None:
    """Lets tasks of marked functions have the argument by which their owner says what keeps the result."""
    original = signature.extract_signature

    @functools.wraps(original)
    def extract(function: Any, ignore_first: bool = False) -> list[inspect.Parameter]:
        parameters: list[inspect.Parameter] = original(function, ignore_first)
        if not is_marked(function):
            return parameters
        added = inspect.Parameter(CALL, inspect.Parameter.KEYWORD_ONLY, default=None)
        has_rest = parameters and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD
        return [*parameters[:-1], added, parameters[-1]] if has_rest else [*parameters, added]

    signature.extract_signature = extract


if hasattr(signature, "extract_signature"):
    _take_calls_argument()
