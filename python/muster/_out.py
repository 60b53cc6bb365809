"""``out=``: copies a result into the caller's own arrays."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from muster import _muster
from muster._trees import device_array_of
from muster._words import a_type_of
from muster.errors import Invalid


def check_out(out: Any) -> None:
    """Checks that ``out`` can be copied into. Whether it nests like the result shows when the result arrives.

    Raises:
        Invalid: something in it is not a writable array.
    """
    if out is None:
        return
    for path, leaf in _leaves(out, ""):
        _check_writable(leaf, path)


def check_out_of_reduction(out: Any, stored: _muster.Ref, op: int) -> None:
    """Does the same for the result of a reduction of ``stored``, and also checks shapes and dtypes.

    Raises:
        Invalid: it nests in another way, or an array has another shape, or a dtype that would lose something.
    """
    if out is None:
        return
    check_out(out)
    if stored.plain and stored.leaves == 1:
        _check_array(out, "", tuple(stored.shape(0)), _muster.result_dtype(stored.dtype_name(0), op))
    else:
        _walk(
            out,
            stored.get(),
            lambda one, value, path: _check_array(
                one, path, tuple(value.shape), _muster.result_dtype(_name(value.dtype), op)
            ),
        )


def copy_into(out: Any, value: Any) -> None:
    """Copies a result into arrays of the same nesting.

    Raises:
        Invalid: as above.
    """
    _walk(out, value, _copy)


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _step(path: str, key: Any) -> str:
    """The way to a part of what is at ``path``, as errors of inputs write it: names as they are, the rest in []."""
    if not (isinstance(key, str) and key.isidentifier()):
        return f"{path}[{key!r}]"
    return f"{path}.{key}" if path else key


def _at(path: str) -> str:
    return f"at {path}: " if path else ""


def _leaves(out: Any, path: str) -> Any:
    if isinstance(out, dict):
        children: Any = out.items()
    elif isinstance(out, (list, tuple)):
        children = enumerate(out)
    elif hasattr(out, "__dataclass_fields__"):
        children = ((name, getattr(out, name)) for name in out.__dataclass_fields__)
    else:
        yield path, out
        return
    for key, child in children:
        yield from _leaves(child, _step(path, key))


def _walk(out: Any, value: Any, visit: Any, path: str = "") -> None:
    """Visits each array of ``out`` with the result's array at the same place."""
    if isinstance(value, dict):
        if not isinstance(out, dict) or out.keys() != value.keys():
            raise _nests_otherwise(out, f"a dict with the keys {list(value)}", path)
        for key, item in value.items():
            _walk(out[key], item, visit, _step(path, key))
    elif isinstance(value, (list, tuple)):
        if not isinstance(out, (list, tuple)) or len(out) != len(value):
            raise _nests_otherwise(out, f"a list of {len(value)}", path)
        for index, (target, item) in enumerate(zip(out, value)):
            _walk(target, item, visit, _step(path, index))
    elif hasattr(value, "__dataclass_fields__"):
        names = list(value.__dataclass_fields__)
        if not all(hasattr(out, name) for name in names):
            raise _nests_otherwise(out, f"{a_type_of(value)} with the fields {names}", path)
        for name in names:
            _walk(getattr(out, name), getattr(value, name), visit, _step(path, name))
    elif hasattr(value, "shape"):
        visit(out, value, path)


def _nests_otherwise(out: Any, wanted: str, path: str) -> Invalid:
    given = a_type_of(out)
    if isinstance(out, dict):
        given += f" with the keys {list(out)}"
    elif isinstance(out, (list, tuple)):
        given += f" of {len(out)}"
    how = f"it has {given} in the place of {wanted}"
    return Invalid(f"{_at(path)}out= nests in another way than the result: {how}", f"give {wanted}")


def _check_writable(out: Any, path: str) -> None:
    if _is_tensor(out) or out is None:
        return
    if not isinstance(out, (np.ndarray, _muster.DeviceArray)):
        raise Invalid(f"{_at(path)}out= holds {a_type_of(out)} where the result has an array", "give writable arrays")
    if not (out.writable if isinstance(out, _muster.DeviceArray) else out.flags.writeable):
        raise Invalid(f"{_at(path)}out= is read-only", "give a writable array")


def _check_array(out: Any, path: str, shape: tuple[int, ...], dtype: str | None) -> None:
    """``dtype`` is None if the op can't reduce its input; then the op's outcome reports that."""
    _check_writable(out, path)
    if out is None:
        return
    if tuple(out.shape) != shape:
        raise Invalid(
            f"{_at(path)}out= has shape {tuple(out.shape)}, the result {shape}", "give an array of the result's shape"
        )
    if dtype is not None and not _holds(out, dtype):
        raise Invalid(
            f"{_at(path)}out= has dtype {_name(out.dtype)}, the result {dtype}",
            "give an array of the result's dtype, or of one that loses nothing",
        )


def _holds(out: Any, dtype: str) -> bool:
    """Whether ``out`` can hold each value of the dtype, by NumPy's rule: torch would promote int64 to float32."""
    own = _name(out.dtype)
    if own == dtype:
        return True
    if dtype == "bfloat16":
        return own in ("float32", "float64", "complex64", "complex128")
    if own == "bfloat16":
        return dtype in ("bool", "int8", "uint8")
    try:
        return np.can_cast(dtype, own if _is_tensor(out) else out.dtype, "safe")
    except TypeError:  # torch has dtypes that NumPy lacks
        return False


def _copy(out: Any, value: Any, path: str) -> None:
    if out is None:
        return
    _check_array(out, path, tuple(value.shape), _name(value.dtype))
    if not (_is_tensor(out) and _is_tensor(value)):
        value = device_array_of(value)
    if isinstance(out, _muster.DeviceArray):
        out.copy_from(value)
    elif _is_tensor(out):
        import torch

        if isinstance(value, _muster.DeviceArray):
            value = torch.from_dlpack(value) if out.is_cuda else torch.from_numpy(value.to_host())
        out.copy_(value if _is_tensor(value) else torch.from_numpy(np.array(value)))
    else:
        np.copyto(out, value.to_host() if isinstance(value, _muster.DeviceArray) else np.asarray(value))
