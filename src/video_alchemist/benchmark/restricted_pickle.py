"""A reader of pickles that runs nothing of theirs: the official annotation keeps its masks in pickles.

Out come dict, list, str, int, float, bool and numpy arrays of plain numbers, written by numpy 1 or 2. Not even numpy's
constructors are called, which can be made to fill any amount of memory: stand-ins collect what a pickle says of an
array, and `_array` makes it, never larger than the pickle's own bytes.
"""

from __future__ import annotations

import io
import pickle
import re
import struct
from typing import Any

import numpy as np

PLAIN = (str, int, float, bool)


def load_plain(contents: bytes) -> Any:
    """What a pickle holds; ValueError where it is damaged or holds anything else, naming the class."""
    try:
        loaded = [_Unpickler(io.BytesIO(contents)).load()]
    except Refused:
        raise
    except (
        pickle.UnpicklingError, struct.error, EOFError, MemoryError, OverflowError,
        AttributeError, AssertionError, LookupError, TypeError, ValueError,
    ) as error:  # fmt: skip
        raise ValueError(f"a damaged pickle ({type(error).__name__}: {error})") from error
    # No recursion, and every container once: lists may hold one another, in rings and a billion times over.
    waiting: list[Any] = [loaded]
    seen = set()
    while waiting:
        container = waiting.pop()
        if id(container) in seen:
            continue
        seen.add(id(container))
        for key, value in list(container.items() if isinstance(container, dict) else enumerate(container)):
            if not isinstance(key, (str, int)):
                raise Refused(type(key).__module__, type(key).__qualname__)
            if isinstance(value, _Array):
                container[key] = value.value
            elif isinstance(value, (dict, list)):
                waiting.append(value)
            elif type(value) not in PLAIN:
                raise Refused(type(value).__module__, type(value).__qualname__)
    return loaded[0]


class Refused(ValueError):
    def __init__(self, module: str, name: str) -> None:
        super().__init__(f"a pickle with {module}.{name}; expected only dict, list, str, numbers and numpy arrays")


class _Unpickler(pickle._Unpickler):  # type: ignore[name-defined]
    """The one in Python: that in C allocates as many memo cells as a pickle says it has."""

    def find_class(self, module: str, name: str) -> type:
        module = module.replace("numpy.core.", "numpy._core.")  # numpy 1
        if (module, name) not in STAND_INS:
            raise Refused(module, name)
        return STAND_INS[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise Refused("persistent", str(pid))


class _Dtype:
    """numpy.dtype(code, ...), and its byte order."""

    def __init__(self, code: str, *_: Any) -> None:
        if not re.fullmatch(r"b1|[iu][1248]|f[248]", code):
            raise Refused("numpy.dtype", code)
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple) -> None:
        if state[1] not in ("|", "<", ">", "="):
            raise ValueError(f"byte order {state[1]!r}")
        self.order = state[1]


class _Array:
    """_reconstruct(class, shape, code), and the array's state: version, shape, dtype, is_fortran, bytes."""

    def __init__(self, *_: Any) -> None:
        self.value: Any = []

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, data = state
        self.value = _array(data, dtype, shape, "F" if is_fortran else "C")


class _Buffer(_Array):
    """_frombuffer(bytes, dtype, shape, order): protocol 5."""

    def __init__(self, data: bytes, dtype: _Dtype, shape: tuple, order: str) -> None:
        self.value = _array(data, dtype, shape, order)


class _Scalar(_Array):
    """scalar(dtype, bytes)."""

    def __init__(self, dtype: _Dtype, data: bytes) -> None:
        self.value = _array(data, dtype, (), "C").item()


class _Class:
    """numpy.ndarray as an argument of `_reconstruct`; nothing else may be done with it."""

    def __init__(self) -> None:
        raise Refused("numpy", "ndarray(...)")

    def __setstate__(self, state: Any) -> None:
        raise TypeError("a class has no state")


class _Encoded:
    """_codecs.encode(text, "latin1"): how protocols 0 to 2 write bytes."""

    def __new__(cls, text: str, encoding: str) -> bytes:  # type: ignore[misc]
        if encoding != "latin1":
            raise Refused("_codecs", encoding)
        return text.encode("latin1")

    def __setstate__(self, state: Any) -> None:
        raise TypeError("a function has no state")


def _array(data: bytes, dtype: _Dtype, shape: tuple, order: str) -> np.ndarray:
    if not isinstance(data, (bytes, bytearray)) or not isinstance(dtype, _Dtype) or order not in ("C", "F"):
        raise TypeError(f"an array of {type(data).__name__} and {type(dtype).__name__}")
    flat = np.frombuffer(data, dtype.order + dtype.code)
    return flat.reshape(shape, order="F" if order == "F" else "C")


# Classes with a __setstate__ of their own, so that a pickle's BUILD cannot put attributes on them.
STAND_INS: dict[tuple[str, str], type] = {
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "scalar"): _Scalar,
    ("numpy._core.numeric", "_frombuffer"): _Buffer,
    ("numpy", "ndarray"): _Class,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Encoded,
}
