"""How every kind of result is shown, in the order of the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

from visprobe.analyses.core import registry
from visprobe.attribution.presentation import PRESENTATIONS
from visprobe.results.presentation import FigureSpec, Presentation
from visprobe.results.result import Result


@cache
def presentations() -> dict[str, Presentation]:
    """By the name of a result how it is shown; those of installed packages are among them."""
    found = registry.presentations() | PRESENTATIONS
    return dict(sorted(found.items(), key=lambda item: item[1].place))


def presentation_of(analysis: str) -> Presentation:
    """How results called `analysis` are shown; plainly, where they come from a package that is not there."""
    return presentations().get(analysis, Presentation())


def titles() -> dict[str, str]:
    """What tables call every measure, by its name."""
    found: dict[str, str] = {}
    for one in presentations().values():
        found = found | {name: title for name, title in one.titles.items() if name not in found}
    return found


def figures_of(results: Sequence[Result]) -> Iterator[tuple[Result, FigureSpec]]:
    """The figures of `results`, in the order of the report."""
    by_name = {result.analysis: result for result in results}
    for analysis, one in presentations().items():
        for figure in one.figures if analysis in by_name else ():
            yield by_name[analysis], figure
