"""Refs: small picklable handles of objects in the store."""

from __future__ import annotations

from typing import Any

import numpy as np

from muster import _muster, _runtime
from muster._keepers import keepers_of
from muster._stand_in import StandIn
from muster._tokens import checked_name
from muster.errors import Invalid, ObjectLost

_HOST = ("cpu", "pinned")  # where the host can read
_HOST_DEVICE = (1, 0)  # DLPack's kDLCPU


class Ref(StandIn):
    """Names an object in the store and keeps it alive.

    A ref is small and can be pickled and sent anywhere, any number of times. The object is freed when its last ref and
    its last array are gone.

    Attributes:
        copies: how many leaves were copied into the store; 0 for arrays that a decorated call made.
        nbytes: the size of all leaves in bytes.
        structure: how the leaves nest, as text; ``*`` is an array.
    """

    __slots__ = ("__weakref__", "_marker", "_native", "_node")
    _take = "ref.get()"

    def __init__(self, native: _muster.Ref) -> None:
        if not isinstance(native, _muster.Ref):
            raise Invalid(f"muster.Ref({native!r}) is not a ref", "refs come from put(), seal() and decorated calls")
        self._native = native
        self._node = ""  # where the object is, if that is another node of Ray's
        self._marker: Any = None  # what keeps the object for values of Ray's that this ref is in

    @property
    def copies(self) -> int:
        return self._native.copies

    @property
    def copy_reasons(self) -> dict[str, str]:
        """Why leaves were copied: the reason for each leaf's path (``layer2.w``; "" if the value is one array).

        A value that was not made in a decorated call has only one reason, with the path "". Only the process that made
        the object knows the reasons. Empty if nothing was copied.
        """
        if self.copies and not self._native.copied:
            return {"": _PUT}
        return {path: _reason(reason, array) for path, reason, array in self._native.copied}

    @property
    def nbytes(self) -> int:
        return self._alive().nbytes

    @property
    def structure(self) -> str:
        return self._alive().structure

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements along each axis, for a plain array."""
        return self._plain().shape(0)

    @property
    def device(self) -> str:
        """Where a plain array lies: ``"cpu"``, ``"pinned"``, or ``"cuda:0"`` and so on."""
        return self._plain().device(0)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype, for a plain array."""
        return self._plain().dtype(0)

    def get(self) -> Any:
        """Returns the value in the same nesting, with read-only zero-copy views of the store.

        torch and JAX leaves come back as such, over copy-on-write memory: only this process sees its writes to them.
        Arrays on a GPU come back as the library's that they were, or as ``DeviceArray``, over read-only memory of the
        GPU: there a write is an illegal access, which ends the process's use of that GPU. They are complete, so every
        stream may read them.

        Raises:
            ObjectLost: the object is gone.
        """
        return self._alive().get()

    def to(self, device: str, *, timeout: float | None = None) -> Ref:
        """Returns the same value with all arrays on a device: this ref if they are there, else a copy, made now.

        Args:
            device: ``"cpu"``, ``"pinned"``, or ``"cuda:0"`` and so on.
            timeout: seconds to wait while the store is full there (30 by default).

        Raises:
            OutOfMemory: the store stayed full.
            Invalid: there is no such device, or this process can't use it.
        """
        return Ref(self._alive().to(device, timeout))

    def keep_for(self, token: str) -> None:
        """Keeps the object until the token of this name ends, however long this ref lives: see ``open_token()``.

        Raises:
            Invalid: no such token is open. What it stood for has ended, so nobody needs the object any more.
            QuotaExceeded: the process that opened the token has no room for another object under it.
        """
        self._alive().keep_for(checked_name(token))

    def free(self) -> None:
        """Drops this ref's hold now; other refs and arrays keep theirs."""
        self._marker = None
        self._native.free()

    def _alive(self) -> _muster.Ref:
        if not self._native.alive:
            raise ObjectLost("the ref was freed", "keep a ref for as long as the object is needed")
        return self._native

    def _plain(self) -> _muster.Ref:
        stored = self._alive()
        if not stored.plain or stored.leaves != 1:
            raise Invalid(f"the ref holds {stored.structure}, not one array", "use get()")
        return stored

    def __bool__(self) -> bool:
        return True  # and not according to its length, which raises

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        if (device := self.device) not in _HOST:
            raise Invalid(f"the array is on {device}, and NumPy can't read it", "move it first: ref.to('cpu')")
        array = np.asarray(self._plain().get())
        if dtype is not None and array.dtype != dtype:
            if copy is False:
                raise ValueError(
                    f"the ref's {array.dtype} array can't be one of {np.dtype(dtype)} without a copy"
                    " (hint: leave copy=False out)"
                )
            return array.astype(dtype)
        return array.copy() if copy else array

    def __dlpack__(self, **options: Any) -> Any:
        array = self._plain().private_array(0) if self.device in _HOST else self._on_gpu()
        return array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return _HOST_DEVICE if self.device in _HOST else self._on_gpu().__dlpack_device__()

    def _on_gpu(self) -> _muster.DeviceArray:
        return self._plain().device_array()

    def __reduce__(self) -> tuple[Any, ...]:
        return (_unpickle, (self._alive().serialize(), self.copies))

    def __repr__(self) -> str:
        if not self._native.alive:
            return "<muster.Ref, freed>"
        return f"<muster.Ref {self.structure}, {_muster.bytes_text(self.nbytes)}, copies={self.copies}>"


def _unpickle(serialized: bytes, copies: int) -> Ref:
    """Unpickles a ref; connects this process to the ref's daemon if needed."""
    stored = _muster.deserialize(_runtime.socket_path(), serialized)
    stored.copies = copies
    return Ref(stored)


def stored_of(value: Any, timeout: float) -> _muster.Ref:
    """Returns the stored object of a ref, or puts a value and returns its object. The op itself refuses a freed ref."""
    if isinstance(value, Ref):
        return value._native
    return _muster.put(_runtime.connection(), value, timeout, None, False)


_PUT = (
    "put() copies, and so does seal() where others may write to the array; return it from a decorated function instead"
)
_REASONS = {
    "library": "it is not a plain array: a ref has it, another library made it, or it is of a subclass",
    "order": "its elements are not in C order, or they have another byte order",
    "stored": "it is a view of an object in the store: return the ref itself (work.ref), or pass that on",
    "elsewhere": "its memory was not allocated in the call itself: a thread of the call did it, or a library by itself",
    "too large": "the call's arrays take more than a quarter of the store's memory (or 64 MiB, if that is more)",
    "share": "what PyTorch and CuPy keep of this and earlier calls would take more than a quarter of the GPU's store",
    "full": "the store was full when it was made",
    "small part": "it is a small part of a larger array or block of memory, all of which it would keep",
    "device": "it was on another device than it was to be",
    "host": "it is on the host: only arrays in memory of a GPU can be left in place",
    "no handle": "CUDA shares only memory of cudaMalloc by handles of legacy IPC, so it can't be left in place: "
    "it is of a pool or mapped, or another process has it",
}


def _reason(reason: str, array: Any) -> str:
    if reason != "kept":
        return _REASONS[reason]
    kept = array() if array is not None else None
    keepers = keepers_of(kept) if kept is not None else []
    return "something outside of the value has it, too" + (f": {', '.join(keepers)}" if keepers else "")
