"""Objects that installed packages bring by entry point."""

from __future__ import annotations

from collections.abc import Collection
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol, TypeVar

from visprobe.errors import UsageError


class Named(Protocol):
    """Object with a name."""

    @property
    def name(self) -> str:
        """Name by which a user asks for it."""


T = TypeVar("T")
N = TypeVar("N", bound=Named)


def load_plug_in(entry: EntryPoint, kind: type[T], noun: str) -> T:
    """Load what an installed package brings.

    Args:
        entry: Its entry point.
        kind: Class that it has to be of.
        noun: What it is, for messages: "analysis", "stage".

    Raises:
        UsageError: If it cannot be loaded, or is something else.
    """
    try:
        found = entry.load()
    except Exception as error:  # code of others may raise anything
        raise unusable(f"the {noun} {entry.value} cannot be loaded: {error}") from error
    if not isinstance(found, kind):
        raise unusable(f"{entry.value} is no {kind.__name__} with a name of its own")
    return found


def named_plug_ins(group: str, kind: type[N], noun: str, taken: Collection[str]) -> dict[str, N]:
    """Load all that installed packages bring to the entry point `group`, by name.

    Raises:
        UsageError: As `load_plug_in`, or if a name is among `taken` or given twice.
    """
    found: dict[str, N] = {}
    for entry in entry_points(group=group):
        one = load_plug_in(entry, kind, noun)
        if one.name in found or one.name in taken:
            raise unusable(f"{entry.value} is no {kind.__name__} with a name of its own")
        found[one.name] = one
    return found


def unusable(problem: str) -> UsageError:
    """Return the error for a package that brings something visprobe cannot use."""
    return UsageError(problem, hint="Repair or uninstall that package.")
