"""Registry of the analyses that `visprobe compare` can run and of how results are shown, with other packages'."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType

from visprobe import analyses
from visprobe.analyses.core.analysis import Analysis
from visprobe.errors import UsageError
from visprobe.io.plug_ins import load_plug_in, named_plug_ins
from visprobe.results.presentation import Presentation

ENTRY_POINTS = "visprobe.analyses"
DEFAULT = ("imagenet", "drift", "weights")
_FIGURE = "_figure"  # suffix of modules that import matplotlib and hold no analysis


@cache
def built_in() -> tuple[Analysis, ...]:
    """Return every `Analysis` in a module of a folder of `visprobe/analyses/`, in the order of reports."""
    found = {
        value.name: value for module in _modules() for value in vars(module).values() if isinstance(value, Analysis)
    }
    return tuple(sorted(found.values(), key=lambda analysis: analysis.presentation.place))


def available() -> dict[str, Analysis]:
    """Return all analyses by name: built-in ones, then those of installed packages (entry point `visprobe.analyses`).

    Raises:
        UsageError: If another package's analysis cannot be loaded or has the name of another one.
    """
    found = {analysis.name: analysis for analysis in built_in()}
    return found | named_plug_ins(ENTRY_POINTS, Analysis, "analysis", found)


def presentations() -> dict[str, Presentation]:
    """Return the presentation of each result by its name, also of results that no `Analysis` makes.

    The latter stand in a dict `PRESENTATIONS` of their module. A package that cannot be loaded is skipped, so that a
    report with its numbers still opens.
    """
    known = {analysis.name: analysis.presentation for analysis in built_in()}
    for entry in entry_points(group=ENTRY_POINTS):
        with suppress(UsageError):
            analysis = load_plug_in(entry, Analysis, "analysis")
            known.setdefault(analysis.name, analysis.presentation)
    others = {name: one for module in _modules() for name, one in getattr(module, "PRESENTATIONS", {}).items()}
    return others | known


def chosen(names: Sequence[str]) -> list[Analysis]:
    """Return the analyses called `names`, in that order.

    Raises:
        UsageError: If names are unknown; the message lists them all.
    """
    known = available()
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"there is no analysis {', '.join(map(repr, unknown))}", hint=f"There are {', '.join(known)}.")
    return [known[name] for name in dict.fromkeys(names)]


@cache
def _modules() -> list[ModuleType]:
    return [import_module(name) for name in _names()]


def _names() -> Iterator[str]:
    for folder in pkgutil.iter_modules(analyses.__path__, f"{analyses.__name__}."):
        if folder.ispkg and folder.name != __package__:
            for module in pkgutil.iter_modules(import_module(folder.name).__path__, f"{folder.name}."):
                if not module.name.endswith(_FIGURE):
                    yield module.name
