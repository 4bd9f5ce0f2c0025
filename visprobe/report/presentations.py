"""Presentations of all kinds of results, in the order of the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

from visprobe.analyses.core import registry
from visprobe.attribution.presentation import PRESENTATIONS
from visprobe.results.presentation import FigureSpec, Presentation
from visprobe.results.result import Result


@cache
def presentations() -> dict[str, Presentation]:
    """Return the presentation of each kind of result by its name, those of installed packages included."""
    found = registry.presentations() | PRESENTATIONS
    return dict(sorted(found.items(), key=lambda item: item[1].place))


def presentation_of(analysis: str) -> Presentation:
    """Return the presentation of results called `analysis`; a plain one if their package is not installed."""
    return presentations().get(analysis, Presentation())


def titles() -> dict[str, str]:
    """Return the title of every measure in tables, by its name."""
    found: dict[str, str] = {}
    for one in presentations().values():
        found = found | {name: title for name, title in one.titles.items() if name not in found}
    return found


def figures_of(results: Sequence[Result]) -> Iterator[tuple[Result, FigureSpec]]:
    """Yield the figures of `results`, in the order of the report."""
    by_name = {result.analysis: result for result in results}
    for analysis, one in presentations().items():
        for figure in one.figures if analysis in by_name else ():
            yield by_name[analysis], figure
