"""Families of models that visprobe reads: one module each, with rows for its towers and its multimodal models.

A module of this folder, or one that an installed package names in the entry point group `visprobe.families`, is found
by what it defines: `TOWERS`, `MODELS` or both. `ORDER` is its place in lists; modules without one come last, by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from types import ModuleType
from typing import TypeVar

from visprobe.encoders.structure.family import Family
from visprobe.encoders.structure.model import Model
from visprobe.io.plug_ins import load_plug_in, unusable

ENTRY_POINTS = "visprobe.families"
Row = TypeVar("Row", Family, Model)


def modules() -> Iterator[ModuleType]:
    """Yield all modules of families: those of this folder in their order, then those of other packages by name.

    Raises:
        UsageError: If one of another package cannot be loaded.
    """
    own = [import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__)]
    yield from sorted(own, key=lambda module: (getattr(module, "ORDER", len(own)), module.__name__))
    for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda entry: entry.value):
        yield load_plug_in(entry, ModuleType, "family")


def by_type(rows: Sequence[Row]) -> dict[str, Row]:
    """Index `rows` by their `model_types`.

    Raises:
        UsageError: If two have one in common.
    """
    found: dict[str, Row] = {}
    for row in rows:
        for model_type in row.model_types:
            if found.setdefault(model_type, row) is not row:
                raise unusable(f"two families read {model_type}: {found[model_type].name} and {row.name}")
    return found


_MODULES = tuple(modules())
TOWERS: tuple[Family, ...] = tuple(row for module in _MODULES for row in getattr(module, "TOWERS", ()))
MODELS: tuple[Model, ...] = tuple(row for module in _MODULES for row in getattr(module, "MODELS", ()))
TOWER_OF = by_type(TOWERS)
MODEL_OF = by_type(MODELS)
