"""All that Muster uses of Ray beyond its documented interface, and a check that this Ray has it.

- ``__ray_invocation_decorator__``, an attribute of a function or method: Ray calls it with the function that submits
  the task, and then calls what it returns.
- The variables ``max_retries`` and ``max_task_retries`` of that function.
- ``extract_signature``: says which arguments a task takes. Marked functions take one more than their author wrote.
- ``ray.experimental.internal_kv``: a table of the whole cluster, kept by its head.
- The actor by which ``ray.util.collective`` tells actors of a group that the driver has declared.
- ``CoreWorker.add_object_out_of_scope_callback``: tells the owner of an object of Ray that nobody refers to it.
- ``CoreWorker.get_owner_address``: whether Ray knows an object still.
- ``SerializationContext``: which object is being unpickled, and that a value which is being pickled names another one.
- ``CoreWorker.deserialize_and_register_object_ref``: that this process borrows an object.
- ``CoreWorker.profile_event``: a span of time in ``ray timeline``.
- The variables ``scheduling_strategy`` and ``label_selector`` of what submits a task: whether the user chose where it
  runs; Muster sets the first where he did not.
- ``ray._private.worker.global_worker``: whether this process runs tasks, its id, and that of its cluster.
- ``ray._private.worker._global_node``: whether this process started the cluster.
- ``ray._private.state``: the jobs and actors of a cluster, and what is left of each node's resources.
- ``ray._private.runtime_env``: the variable by which a submitted job has its runtime environment, the one by which a
  worker has its setup hook, and what calls a hook that Ray has stored.
- ``ray.experimental.rdt``: the function that makes Ray's own transports known before any is looked up; the manager's
  ``put_object``, with its tables of results and tensors; and what it calls of the actor that made tensors.
- ``CPUCommunicator``: Compiled Graphs take no other communicator for actors without an accelerator.
- ``ray.util.collective.types.Backend``: ``ray.experimental.collective`` takes the names that are its attributes.
- The label ``ray.io/node-id``, the resource ``node:__internal_head__``, and the names of a placement group's resources.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import json
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import ray

from muster._decorator import CALL, is_marked
from muster.errors import Invalid

VERSIONS = "2.58 to 2.60"
_HINT = f"install a Ray that Muster knows, {VERSIONS}: pip install 'ray>=2.58'; or a newer Muster"
_KV = b"muster"
#: The field of a runtime environment that has what workers call when they start.
SETUP_HOOK = "worker_process_setup_hook"
_DECLARED_S = 30

try:
    from ray._common import signature
    from ray._private import ray_constants, serialization, state, worker
    from ray._private.runtime_env import setup_hook
    from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
    from ray._private.worker import global_worker
    from ray.experimental import internal_kv
    from ray.experimental.channel.cpu_communicator import CPUCommunicator
    from ray.experimental.rdt import util as transports
    from ray.experimental.rdt.rdt_manager import RDTManager
    from ray.experimental.rdt.tensor_transport_manager import (
        CommunicatorMetadata,
        TensorTransportManager,
        TensorTransportMetadata,
    )
    from ray.util.collective import is_backend_available, register_collective_backend
    from ray.util.collective.collective_group.base_collective_group import BaseGroup
    from ray.util.collective.types import Backend
    from ray.util.placement_group import PlacementGroup
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ImportError as error:
    raise Invalid(f"Ray {ray.__version__} lacks what Muster needs: {error}", _HINT) from error

__all__ = [
    "BaseGroup",
    "CPUCommunicator",
    "CommunicatorMetadata",
    "TensorTransportManager",
    "TensorTransportMetadata",
    "is_backend_available",
    "register_collective_backend",
]


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
        "CoreWorker.get_owner_address": hasattr(ray._raylet.CoreWorker, "get_owner_address"),
        "CoreWorker.deserialize_and_register_object_ref": hasattr(
            ray._raylet.CoreWorker, "deserialize_and_register_object_ref"
        ),
        "SerializationContext.add_contained_object_ref": {"allow_out_of_band_serialization", "call_site"}
        <= _parameters_of(serialization.SerializationContext, "add_contained_object_ref"),
        "SerializationContext.get_outer_object_ref": hasattr(
            serialization.SerializationContext, "get_outer_object_ref"
        ),
        "ALLOW_OUT_OF_BAND_OBJECT_REF_SERIALIZATION": hasattr(
            serialization, "ALLOW_OUT_OF_BAND_OBJECT_REF_SERIALIZATION"
        ),
        "ray._private.runtime_env.setup_hook.load_and_execute_setup_hook": hasattr(
            setup_hook, "load_and_execute_setup_hook"
        ),
        "ray._private.ray_constants.WORKER_PROCESS_SETUP_HOOK_ENV_VAR": hasattr(
            ray_constants, "WORKER_PROCESS_SETUP_HOOK_ENV_VAR"
        ),
        "CoreWorker.profile_event": hasattr(ray._raylet.CoreWorker, "profile_event"),
        "ray._private.worker._global_node": hasattr(worker, "_global_node"),
        "ray._private.state.jobs": hasattr(state, "jobs"),
        "ray._private.state.actors": hasattr(state, "actors"),
        "ray._private.state.available_resources_per_node": hasattr(state, "available_resources_per_node"),
        "ray.experimental.rdt.util._ensure_default_transports_registered": hasattr(
            transports, "_ensure_default_transports_registered"
        ),
        "ray.experimental.rdt.util.has_custom_transports": hasattr(transports, "has_custom_transports"),
        "RDTManager.put_object": hasattr(RDTManager, "put_object"),
        "RDTManager.add_rdt_ref": hasattr(RDTManager, "add_rdt_ref"),
        "RDTManager.get_rdt_metadata": hasattr(RDTManager, "get_rdt_metadata"),
        "ObjectRef.tensor_transport": hasattr(ray.ObjectRef, "tensor_transport"),
        "__ray_invocation_decorator__": _reads_the_attribute(),
        "scheduling_strategy of a submission": "scheduling_strategy"
        in _names_of(ray.remote_function.RemoteFunction._remote),
        "max_retries of a submission": "max_retries" in _names_of(ray.remote_function.RemoteFunction._remote),
        "max_task_retries of a submission": "max_task_retries" in _names_of(ray.actor.ActorMethod._remote),
    }
    missing = [name for name, there in wanted.items() if not there]
    if missing:
        raise Invalid(
            f"Ray {ray.__version__} lacks what Muster needs: {', '.join(missing)}",
            _HINT,
        )


def _parameters_of(of: type, name: str) -> set[str]:
    function = getattr(of, name, None)
    return set() if function is None else set(inspect.signature(function).parameters)


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
    *_, milliseconds = ray.get(declared.get_info.remote(), timeout=_DECLARED_S)  # under a lock of Ray's
    return float(milliseconds) / 1000


def take_setup_hook(env: dict[str, Any]) -> Any:
    """Takes what workers call when they start out of a runtime environment, of which Ray may have begun to make use.

    Returns:
        A function, a text that names one, or None.
    """
    given = env.pop(SETUP_HOOK, None)
    variables = dict(env.get("env_vars") or {})  # the caller's is used again
    known_to_ray = variables.pop(ray_constants.WORKER_PROCESS_SETUP_HOOK_ENV_VAR, None)
    if "env_vars" in env:
        env["env_vars"] = variables
    return known_to_ray or given


def call_setup_hook(hook: Any) -> None:
    """Calls what ``take_setup_hook`` returned, in a worker."""
    if callable(hook):
        hook()
    elif hook is not None:
        problem = setup_hook.load_and_execute_setup_hook(hook)
        if problem is not None:
            raise RuntimeError(problem)


@contextlib.contextmanager
def submitted_without_setup_hook(may_take: bool) -> Iterator[Any]:
    """Lets ``ray.init()`` give another setup hook than ``ray job submit`` did, which Ray takes for a conflict.

    Yields:
        The job's own, as ``take_setup_hook`` does; None if this process is no such job, or if not ``may_take``.
    """
    submitted = os.environ.get(RAY_JOB_CONFIG_JSON_ENV_VAR) if may_take else None
    if submitted is None:
        yield None
        return
    config = json.loads(submitted)
    hook = take_setup_hook(config.get("runtime_env") or {})
    os.environ[RAY_JOB_CONFIG_JSON_ENV_VAR] = json.dumps(config)
    try:
        yield hook
    finally:
        os.environ[RAY_JOB_CONFIG_JSON_ENV_VAR] = submitted


class Submission:
    """What submits one task: the function that Ray gives to the decorator. Its variables are of this one call."""

    def __init__(self, invocation: Callable[..., Any]) -> None:
        self.invoke = invocation
        self._variables = dict(zip(invocation.__code__.co_freevars, invocation.__closure__ or ()))

    def retries(self) -> int:
        """How often Ray may retry what is submitted; negative: as often as needed."""
        found = self._variables.get("max_retries") or self._variables.get("max_task_retries")
        return int(found.cell_contents or 0) if found is not None else 0

    def may_choose_node(self) -> bool:
        """Whether this is a task, not a method, and nothing says on which node it is to run."""
        strategy, labels = self._variables.get("scheduling_strategy"), self._variables.get("label_selector")
        return (
            strategy is not None
            and strategy.cell_contents == "DEFAULT"
            and (labels is None or not labels.cell_contents)
        )

    def choose_node(self, node: str | None) -> None:
        """Lets the task run on a node, if that is there; None: anywhere."""
        strategy = "DEFAULT" if node is None else NodeAffinitySchedulingStrategy(node, soft=True)
        self._variables["scheduling_strategy"].cell_contents = strategy


def _names_of(submits: Any) -> tuple[str, ...]:
    """The variables of a function that functions in it use."""
    return tuple(inspect.unwrap(submits).__code__.co_cellvars)


def when_out_of_scope(ref: ray.ObjectRef, callback: Callable[[bytes], None]) -> bool:
    """Lets Ray call ``callback`` when nothing refers to this process's object any more; it must not block.

    Returns:
        False if that is so already, and nobody will be called.
    """
    return bool(global_worker.core_worker.add_object_out_of_scope_callback(ref, callback))


def ref_to(id: bytes) -> ray.ObjectRef | None:
    """Refers to an object of this process once more; None if nothing has referred to it, and it is gone."""
    ref = ray.ObjectRef(id)
    try:
        global_worker.core_worker.get_owner_address(ref)
    except ValueError:
        return None
    return ref


def owner_of(ref: ray.ObjectRef) -> bytes:
    """The address of the process that owns an object, as ``borrow`` takes it."""
    return bytes(global_worker.core_worker.get_owner_address(ref))


def contain(ref: ray.ObjectRef) -> None:
    """Lets the value that is being pickled name an object of Ray's, without having it in it.

    Ray keeps the object as long as the value. Who unpickles the value has nothing to do with it. If Ray does not know
    where the value goes, it keeps the object for good.
    """
    global_worker.get_serialization_context().add_contained_object_ref(
        ref,
        allow_out_of_band_serialization=serialization.ALLOW_OUT_OF_BAND_OBJECT_REF_SERIALIZATION,
        call_site=None,
    )


def borrow(id: bytes, owner: bytes) -> ray.ObjectRef | None:
    """Called while an argument of a task is unpickled that contains an object.

    Returns:
        None if Ray knows of the object, as the argument came with the task. Else it is not known how the argument came,
        and who keeps what is returned keeps the object.
    """
    outer = global_worker.get_serialization_context().get_outer_object_ref()
    if outer is not None and outer.is_nil():
        return None
    ref = ray.ObjectRef(id, owner)
    global_worker.core_worker.deserialize_and_register_object_ref(id, outer or ray.ObjectRef.nil(), owner, "")
    return ref


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


def kv_delete_all(prefix: bytes) -> None:
    internal_kv._internal_kv_del(prefix, del_by_prefix=True, namespace=_KV)


def kv_keys(prefix: bytes) -> list[bytes]:
    """The keys with this prefix, under which something is written down."""
    return [bytes(key) for key in internal_kv._internal_kv_list(prefix, namespace=_KV)]


def started_cluster() -> bool:
    """Whether this process started the cluster that it is in."""
    node = worker._global_node
    return node is not None and bool(node.is_head())


def live_jobs() -> set[str]:
    """The ids of the jobs of this cluster that have not ended, in hex."""
    return {job["JobID"] for job in state.jobs() if not job["IsDead"]}


def live_nodes() -> set[str]:
    """The ids of the nodes of this cluster that are not lost, in hex."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def is_live_actor(id: str) -> bool:
    """Whether an actor lives, or may be restarted. ``id``: in hex."""
    return bool(state.actors(id).get("State", "DEAD") != "DEAD")


def is_head(node: dict[str, Any]) -> bool:
    """Whether a row of ``ray.nodes()`` is the cluster's head, which is never taken away."""
    return "node:__internal_head__" in node["Resources"]


def left_on(node: str) -> dict[str, float]:
    """What is left of a node's resources, those of placement groups included."""
    return dict(state.available_resources_per_node().get(node, {}))


def only_on(node: str) -> dict[str, str]:
    """Labels that only this node has."""
    return {"ray.io/node-id": node}


def placement_group_of(id: str) -> Any:
    return PlacementGroup(ray.PlacementGroupID(bytes.fromhex(id)))


def memory_of(group_id: str) -> str:
    """The resource that is the memory of a placement group with one bundle."""
    return f"memory_group_{group_id}"


def begin_event(kind: str, name: str) -> Any:
    """Begins a span of time in ``ray timeline``: what is returned must be ended by ``end_event`` while Ray runs."""
    event = global_worker.core_worker.profile_event(kind.encode("ascii"), {"name": name})
    event.__enter__()
    return event


def end_event(event: Any) -> None:
    event.__exit__(None, None, None)


def lends_its_cpu() -> bool:
    """Whether Ray lets others have this thread's CPU while it waits in ``ray.wait``: in a task or a method, not in a
    loop of asyncio.
    """
    return global_worker.mode == ray.WORKER_MODE and asyncio._get_running_loop() is None


def session() -> bytes | None:
    """The ids of the cluster and of this process in it; None without one. Another one after another ``ray.init()``.

    A driver's own id is that of its job: the first driver of each cluster has the same.
    """
    node = global_worker.node
    if not global_worker.connected or node is None:
        return None
    return bytes(node.cluster_id.binary() + global_worker.worker_id)


class _Transports:
    """Transports of tensors that are added when Ray first looks for one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._are_added = False
        self._workers_know = False
        self._has_others = False

    def add(self, call: Callable[[Callable[..., None]], None]) -> None:
        with self._lock:
            if self._are_added:
                return
            self._are_added = True
            self._has_others = transports.has_custom_transports
            call(_add_transport)
            self._tell()

    def tell(self, workers_know: bool) -> None:
        with self._lock:
            self._workers_know = workers_know
            if self._are_added:
                self._tell()

    def _tell(self) -> None:
        if not self._has_others:
            transports.has_custom_transports = not self._workers_know


_transports = _Transports()


def when_transports_are_needed(call: Callable[[Callable[..., None]], None]) -> None:
    """Makes a call once, when Ray first looks for a transport of tensors: with what adds one."""
    original = transports._ensure_default_transports_registered

    @functools.wraps(original)
    def ensure() -> None:
        original()
        _transports.add(call)

    transports._ensure_default_transports_registered = ensure


def workers_know_transports(know: bool) -> None:
    """Says whether all workers of this job add these transports themselves.

    Otherwise Ray lets each actor do so by a task. Calls of an actor wait for that task, and it is not run again when
    the actor is restarted.
    """
    _transports.tell(know)


def _add_transport(name: str, devices: list[str], manager: type, data_type: type) -> None:
    if name not in transports.transport_manager_info:  # the process that made this actor has said so
        transports.register_tensor_transport(name, devices, manager, data_type)


def name_backend(name: str) -> None:
    """Lets ``ray.experimental.collective`` know a backend, which has a list of its own."""
    setattr(Backend, name, name)


def tensors_of(ref: ray.ObjectRef) -> Any:
    """What Ray knows of the tensors of a result: a ``TensorTransportMetadata``; None if it knows nothing yet."""
    known = global_worker.rdt_manager.get_rdt_metadata(ref.hex())
    return None if known is None else known.tensor_transport_meta


def forget_tensors(id: str) -> None:
    """Lets Ray drop the tensors of a result that could not be given to a transport. It would keep them for good."""
    with contextlib.suppress(AssertionError):
        global_worker.rdt_manager.rdt_store.pop_object(id)


class _ThisProcess:
    """Stands for the actor that made tensors, in a process that has none: the driver, or a task.

    Attributes:
        later: makes calls on a thread of its own; None in other processes.
    """

    _actor_id = None

    def __init__(self, later: Any) -> None:
        self.later = later

    @property
    def __ray_call__(self) -> _ThisProcess:
        return self

    def options(self, **_: Any) -> _ThisProcess:
        return self

    def remote(self, function: Callable[..., Any], *arguments: Any) -> None:
        if self.later is not None:
            self.later(functools.partial(function, None, *arguments))

    def __reduce__(self) -> tuple[Any, ...]:
        return (_ThisProcess, (None,))


def when_put(tell: Callable[[Any], None], later: Callable[[Callable[[], Any]], None], ours: tuple[str, ...]) -> None:
    """Lets processes that are no actors put tensors with one of ``ours``, too, and tells what such a put has made."""
    original = RDTManager.put_object

    @functools.wraps(original)
    def put_object(self: Any, ref: ray.ObjectRef, transport: str, tensors: list[Any]) -> None:
        if transport in ours and ray.get_runtime_context().get_actor_id() is None:
            stored = self.rdt_store.add_object_primary(ref.hex(), tensors, transport)
            self.add_rdt_ref(ref, _ThisProcess(later), transport, tensor_transport_meta=stored)
        else:
            original(self, ref, transport, tensors)
        tell(tensors_of(ref))

    RDTManager.put_object = put_object


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
