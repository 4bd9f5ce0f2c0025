"""Reading of pickles without running anything in them: listed names become stand-ins, every other name is refused.

The unpickler is the one written in Python: its memo is a dict, so that a damaged index cannot claim gigabytes, and
opcodes that allocate by a number in the file are removed from it. An object that was checked when it was built cannot
be given another state afterwards. A small file can ask for much work, such as one list copied again and again, or a key
whose hash visits nested tuples: the number of copied elements and the types of keys are limited.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

from visprobe.errors import CheckpointError
from visprobe.io.regular import DAMAGED

MAX_PICKLE = 256 << 20  # bytes; the index of a checkpoint of terabytes has some megabytes
_MAX_COPIED = 10_000_000
_COPIED = (list, tuple, dict, set, frozenset, str, bytes)
_OF_KEYS = (set, frozenset, dict, OrderedDict)
_UNREAD = {
    pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER, pickle.EXT1, pickle.EXT2, pickle.EXT4,
    pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX,
}  # fmt: skip
"""Opcodes that allocate by a number in the file, and those of objects that torch.save never writes."""


class Readable(Protocol):
    """Stream that a pickle is read from."""

    def read(self, count: int, /) -> bytes:
        """Read at most `count` bytes; fewer only at the end."""
        ...

    def readline(self) -> bytes:
        """Read the bytes up to the end of the line."""
        ...


class Inert:
    """Stand-in for an object of a pickle: it keeps the arguments and runs none of the object's code."""

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)
        else:
            self.args = state


class _ForbiddenName(Exception):
    """Error for a name that is not on the list."""


def _build(unpickler: Any) -> None:
    state, built = unpickler.stack.pop(), unpickler.stack[-1]
    if isinstance(built, Inert):
        Inert.__setstate__(built, state)
    elif not isinstance(built, dict):  # state of a dictionary is ignored: its attributes are not needed
        raise ValueError(f"a state for a {type(built).__name__}")


def _key(value: Any) -> Any:
    """Refuse nested keys of a dictionary or members of a set, whose hash can take exponential time."""
    if isinstance(value, tuple | frozenset):
        raise ValueError(f"a key that is a {type(value).__name__}")
    return value


def _setitem(unpickler: Any) -> None:
    value, key = unpickler.stack.pop(), unpickler.stack.pop()
    unpickler.stack[-1][_key(key)] = value


def _setitems(unpickler: Any) -> None:
    items = unpickler.pop_mark()
    for key, value in zip(items[::2], items[1::2], strict=True):
        unpickler.stack[-1][_key(key)] = value


def _dict(unpickler: Any) -> None:
    items = unpickler.pop_mark()
    unpickler.append({_key(key): value for key, value in zip(items[::2], items[1::2], strict=True)})


def _additems(unpickler: Any) -> None:
    items = unpickler.pop_mark()
    unpickler.stack[-1].update(map(_key, items))


def _frozenset(unpickler: Any) -> None:
    unpickler.append(frozenset(map(_key, unpickler.pop_mark())))


def _reduce(unpickler: Any) -> None:
    args, function = unpickler.stack.pop(), unpickler.stack[-1]
    _count(unpickler, function, args)
    unpickler.stack[-1] = function(*args)


def _newobj(unpickler: Any) -> None:
    args, kind = unpickler.stack.pop(), unpickler.stack[-1]
    _count(unpickler, kind, args)
    unpickler.stack[-1] = kind.__new__(kind, *args)


def _count(unpickler: Any, function: Any, args: Any) -> None:
    """Count elements that a function of the list copies from its arguments."""
    for arg in args:
        if isinstance(arg, _COPIED):
            unpickler.copied += len(arg)
        if function in _OF_KEYS and isinstance(arg, list | tuple | set | frozenset):
            for item in arg:
                _key(item[0] if function is not set and isinstance(item, list | tuple) else item)
    if unpickler.copied > _MAX_COPIED:
        raise ValueError(f"it copies more than {_MAX_COPIED} elements")


class _Unpickler(pickle._Unpickler):
    dispatch: ClassVar = {c: read for c, read in pickle._Unpickler.dispatch.items() if bytes([c]) not in _UNREAD}
    dispatch |= {
        code[0]: read
        for code, read in {
            pickle.BUILD: _build, pickle.REDUCE: _reduce, pickle.NEWOBJ: _newobj, pickle.SETITEM: _setitem,
            pickle.SETITEMS: _setitems, pickle.DICT: _dict, pickle.ADDITEMS: _additems, pickle.FROZENSET: _frozenset,
        }.items()
    }  # fmt: skip

    def __init__(self, stream: Readable, allowed: Mapping[str, Any], storage: Callable[[Any], Any] | None) -> None:
        super().__init__(stream)
        self._allowed = allowed
        self._storage = storage
        self.copied = 0  # elements of containers passed to functions, which copy them

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in self._allowed:
            raise _ForbiddenName(f"{module}.{name}")
        return self._allowed[f"{module}.{name}"]

    def persistent_load(self, saved_id: Any) -> Any:
        if self._storage is None:
            raise ValueError("it refers to something outside it")
        return self._storage(saved_id)


def unpickle(
    stream: Readable, where: str, allowed: Mapping[str, Any], hint: str, storage: Callable[[Any], Any] | None = None
) -> Any:
    """Load the object of a pickle in which only the names in `allowed` occur.

    Args:
        stream: Stream of the pickle; reading stops at its end.
        where: File name for messages.
        allowed: "module.name" to its replacement: a stand-in, a harmless function, or a value.
        hint: Hint of the error if another name occurs.
        storage: Maps a persistent id to its replacement.

    Returns:
        The object, made of plain containers and stand-ins.

    Raises:
        CheckpointError: If the pickle is damaged or needs a name that is not allowed.
    """
    try:
        return _Unpickler(stream, allowed, storage).load()
    except _ForbiddenName as error:
        raise CheckpointError(f"{where} needs {error}, which is not safe to load", hint=hint) from None
    except Exception as error:  # a damaged pickle raises many types
        raise CheckpointError(f"{where} is damaged: {error!r}".splitlines()[0][:300], hint=DAMAGED) from error
