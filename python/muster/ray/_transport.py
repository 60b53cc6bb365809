"""Muster as a transport of Ray Direct Transport: tensors that methods of actors return stay in the node's store.

A method with ``@ray.method(tensor_transport="muster")`` puts its tensors into the store when it returns, and who takes
its result maps them. Nobody sends anything, so no actor waits for another one, and none has to be killed.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import ray

import muster
from muster._ref import Ref
from muster.errors import Error, Invalid
from muster.ray import _cluster, _hooks, _owned, _refs

#: The transport of torch's tensors, and that of NumPy's arrays: Ray knows one type of tensors for each name.
TORCH = "MUSTER"
NUMPY = "MUSTER_NUMPY"

#: What names an object in the store: its pickled ref, how many copies it took, and where it is.
_Named = tuple[bytes, int, _refs.Place]


class Stored(_hooks.TensorTransportMetadata):  # type: ignore[misc]
    """What Ray passes around for tensors: their shapes and dtypes, and what names them in the store.

    The process that called the method keeps the object from the moment that this arrives there. So the object stays if
    the actor ends, and goes with Ray's last reference to the result.
    """

    def __init__(self, shapes: list[Any], device: str | None, named: _Named | None) -> None:
        super().__init__(tensor_meta=shapes, tensor_device=device)
        self.named = named
        self.ref: Ref | None = None
        #: Whether the next process that unpickles this is the one that called the method.
        self.goes_to_owner = True

    def load(self) -> Ref | None:
        """Returns the ref. If its object can't be read here, that is told when it is used. None: there are no tensors.

        Raises:
            DaemonUnavailable: this node's daemon could not be started.
        """
        if self.named is None:
            return None
        _cluster.ready()
        serialized, copies, place = self.named
        return _refs.load(serialized, copies, place)

    def __reduce__(self) -> tuple[Any, ...]:
        goes_to_owner, self.goes_to_owner = self.goes_to_owner, False
        return (_arrived, (self.tensor_meta, self.tensor_device, self.named, goes_to_owner))


def _arrived(shapes: list[Any], device: str | None, named: _Named | None, is_owner: bool) -> Stored:
    """Unpickles ``Stored``. Called on a thread of Ray's that must not wait, and where an error ends the process."""
    made = Stored(shapes, device, named)
    made.goes_to_owner = False
    if is_owner and named is not None:
        _keeping.start()
        _keeping.put(functools.partial(_keep, weakref.ref(made)))
    return made


def _keep(arrived: weakref.ref[Stored]) -> None:
    """Keeps the object for as long as what has arrived here. Until then the actor keeps it."""
    stored = arrived()
    if stored is not None:
        with contextlib.suppress(Error):  # who takes the tensors is told
            stored.ref = stored.load()


_keeping = _owned.Caller()


class Transport(_hooks.TensorTransportManager):  # type: ignore[misc]
    """Takes tensors into the store and out of it. The methods are called by Ray."""

    name = TORCH

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: The objects of this process's tensors, by Ray's ids.
        self._made: dict[str, tuple[Stored, Ref | None]] = {}

    def tensor_transport_backend(self) -> str:
        return self.name

    @staticmethod
    def is_one_sided() -> bool:
        return True

    @staticmethod
    def can_abort_transport() -> bool:
        return True

    def actor_has_tensor_transport(self, actor: Any) -> bool:
        return True

    def extract_tensor_transport_metadata(self, obj_id: str, rdt_object: list[Any]) -> Stored:
        """Puts the tensors into the store. On a GPU they stay where they are, if CUDA can share them.

        Raises:
            Invalid: there is a tensor that the store can't hold, or they are on devices of several kinds.
            OutOfMemory: the store stayed full.
        """
        with self._lock:
            known = self._made.get(obj_id)
        if known is not None:
            return known[0]  # the method has run again, and Ray keeps the tensors of its first run
        try:
            stored, ref = self._put(rdt_object)
        except BaseException:
            _hooks.forget_tensors(obj_id)
            raise
        with self._lock:
            self._made[obj_id] = stored, ref
        return stored

    def _put(self, tensors: list[Any]) -> tuple[Stored, Ref | None]:
        if not tensors:
            return Stored([], None, None), None
        devices = {self._device(tensor) for tensor in tensors}
        if len(devices) > 1:
            raise Invalid(
                f"the tensors of one result are on {' and '.join(sorted(devices))}", "return tensors of one kind"
            )
        _cluster.ready()
        values = [self._plain(tensor) for tensor in tensors]
        ref = muster.put(values[0] if len(values) == 1 else values, in_place=True)
        named = ref._alive().serialize_kept(), ref.copies, _refs.place_of(ref)
        shapes = [(tensor.shape, tensor.dtype) for tensor in tensors]
        return Stored(shapes, devices.pop(), named), ref

    def get_communicator_metadata(self, src_actor: Any, dst_actor: Any, backend: str | None = None) -> Any:
        return _hooks.CommunicatorMetadata()

    def recv_multiple_tensors(
        self,
        obj_id: str,
        tensor_transport_metadata: Stored,
        communicator_metadata: Any,
        target_buffers: list[Any] | None = None,
    ) -> list[Any]:
        """Maps the tensors, or copies them into buffers.

        Raises:
            ObjectLost: they are gone, or in the store of another node.
            DaemonUnavailable: this node's daemon could not be started.
        """
        ref = tensor_transport_metadata.load()
        if ref is None:
            return []
        tensors = ref.get() if len(tensor_transport_metadata.tensor_meta) > 1 else [ref.get()]
        if not target_buffers:
            return list(tensors)
        for buffer, tensor in zip(target_buffers, tensors):
            self._copy(buffer, tensor)
        return target_buffers

    def send_multiple_tensors(self, tensors: Any, tensor_transport_metadata: Any, communicator_metadata: Any) -> None:
        raise Invalid("nothing is sent by Muster's transport: who needs tensors maps them", "report this to Muster")

    def garbage_collect(self, obj_id: str, tensor_transport_meta: Any, tensors: Any) -> None:
        with self._lock:
            self._made.pop(obj_id, None)

    def abort_transport(self, obj_id: str, communicator_metadata: Any) -> None:
        """Nothing has to be done: who receives tensors waits for no other process than the daemon."""

    def _device(self, tensor: Any) -> str:
        return str(tensor.device.type)

    def _plain(self, tensor: Any) -> Any:
        return tensor.detach()

    def _copy(self, buffer: Any, tensor: Any) -> None:
        buffer.copy_(tensor)


class NumpyTransport(Transport):
    name = NUMPY

    def _device(self, tensor: Any) -> str:
        return "cpu"

    def _plain(self, tensor: Any) -> Any:
        return tensor

    def _copy(self, buffer: Any, tensor: Any) -> None:
        np.copyto(buffer, tensor)


def register() -> None:
    """Makes the transports known in this process, when Ray first needs any. Ray has imported torch then."""
    _hooks.when_transports_are_needed(_add)
    _hooks.when_put(_was_put, _freed, (TORCH, NUMPY))


def _add(add: Callable[[str, list[str], type, type], None]) -> None:
    if "torch" in sys.modules:
        add(TORCH, ["cpu", "cuda"], Transport, sys.modules["torch"].Tensor)
    add(NUMPY, ["cpu"], NumpyTransport, np.ndarray)


def _was_put(stored: Any) -> None:
    """Tensors were put by ``ray.put``: this process is the owner, and keeps them itself."""
    if isinstance(stored, Stored):
        stored.goes_to_owner = False


def _freed(call: Callable[[], Any]) -> None:
    """Nobody refers to tensors any more that this process has put. Called on a thread of Ray's that must not wait."""
    _keeping.start()
    _keeping.put(call)


def carries(ref: ray.ObjectRef) -> bool:
    """Whether a result holds tensors of Muster's transports.

    Raises:
        Invalid: it holds tensors of another transport.
    """
    name = ref.tensor_transport()
    if name not in (None, TORCH, NUMPY):
        raise Invalid(
            f"the tensors of {ref} are carried by Ray's transport {name.lower()}, and are not in the store",
            'let the method have tensor_transport="muster"',
        )
    return name is not None


def ref_of(task: ray.ObjectRef, timeout: float | None = None) -> Ref:
    """Waits for a result that holds tensors, and returns it as a ref. One tensor or a list of them is not copied.

    Raises:
        ray.exceptions.RayTaskError: the method failed.
        ray.exceptions.GetTimeoutError: it was not there in time.
        Invalid: the result holds something that can't be stored.
    """
    value = ray.get(task, timeout=timeout)
    stored = _hooks.tensors_of(task)
    if isinstance(stored, Stored) and _is_flat(value, len(stored.tensor_meta)):
        ref = stored.load()
        if ref is not None:
            return ref
    return muster.put(value)


def _is_flat(value: Any, tensors: int) -> bool:
    """Whether a value with so many tensors is stored as it is: one tensor, or a list of several."""
    if type(value) is list:
        return len(value) == tensors > 1 and all(map(_is_tensor, value))
    return tensors == 1 and _is_tensor(value)


def _is_tensor(x: Any) -> bool:
    return type(x) is np.ndarray or ("torch" in sys.modules and isinstance(x, sys.modules["torch"].Tensor))
