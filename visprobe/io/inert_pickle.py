"""Reading pickles without running anything in them: listed names become stand-ins, every other name is refused.

The unpickler is the one written in Python: its memo is a dict, so that a damaged index cannot claim gigabytes, and the
opcodes that allocate by a number in the file are taken out of it. What has been checked as it was built cannot be given
another state afterwards.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

from visprobe.errors import CheckpointError
from visprobe.io.tensors import DAMAGED

MAX_PICKLE = 256 << 20  # bytes; the index of a checkpoint of terabytes has some megabytes
_ALLOCATING = {pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER, pickle.EXT1, pickle.EXT2, pickle.EXT4}


class Readable(Protocol):
    """What a pickle is read from."""

    def read(self, count: int, /) -> bytes:
        """At most `count` bytes; fewer only at the end."""
        ...

    def readline(self) -> bytes:
        """The bytes up to the end of the line."""
        ...


class Inert:
    """Stands for an object of a pickle: what it was built from is kept, its own code is never run."""

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)
        else:
            self.args = state


class _ForbiddenName(Exception):
    """A name that is not on the list."""


def _build(unpickler: Any) -> None:
    state, built = unpickler.stack.pop(), unpickler.stack[-1]
    if isinstance(built, Inert):
        Inert.__setstate__(built, state)
    elif not isinstance(built, dict):  # a dictionary's attributes are of no use here
        raise ValueError(f"a state for a {type(built).__name__}")


class _Unpickler(pickle._Unpickler):
    dispatch: ClassVar = {c: read for c, read in pickle._Unpickler.dispatch.items() if bytes([c]) not in _ALLOCATING}
    dispatch[pickle.BUILD[0]] = _build

    def __init__(self, stream: Readable, allowed: Mapping[str, Any], storage: Callable[[Any], Any] | None) -> None:
        super().__init__(stream)
        self._allowed = allowed
        self._storage = storage

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
    """The object of a pickle in which only the names in `allowed` occur.

    Args:
        stream: The pickle; reading stops at its end.
        where: Its file, for messages.
        allowed: What "module.name" becomes: a stand-in, a harmless function, or a value.
        hint: What to do if another name occurs.
        storage: What a persistent id becomes.

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
